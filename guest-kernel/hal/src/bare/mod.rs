//! The bare implementation: x86-64 in ring 0.
