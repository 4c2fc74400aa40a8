//! The packer as a whole, held against Linux's tools (`fsck.erofs` of erofs-utils, GNU tar), against the guest's
//! reader, and against the tree it came from.

mod cache;
mod damaged;
mod dir;
mod random;
mod support;
mod tar;
