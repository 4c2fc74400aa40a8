//! The gofer: serves host directories to one sandbox, FUSE over vhost-user. Decisions are in `README.md`.
//!
//! | module | holds |
//! |---|---|
//! | [`volume`] | what is shared, and the mapping of user and group ids |
//! | [`node`] | the inodes the guest knows, as `O_PATH` descriptors; the descriptors used last |
//! | [`fs`] | what each request does |
//! | `attributes` | changing attributes and making inodes, both with their owner |
//! | [`server`] | vhost-user, the virtqueues and the loop |
//! | [`direct`] | the request queue without a VMM, for tests |
//! | [`process`] | from the command line to the loop |

mod attributes;
pub mod direct;
pub mod fs;
pub mod node;
pub mod process;
pub mod server;
#[cfg(test)]
mod tests;
pub mod volume;
