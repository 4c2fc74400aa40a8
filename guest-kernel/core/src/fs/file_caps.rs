//! Capabilities of a program file: the attribute `security.capability` (capabilities(7), "File capabilities").
//!
//! `struct vfs_cap_data`: a little-endian word with the revision and the flag "effective", then pairs of words
//! permitted, inheritable; revision 3 goes on with the user id that is root in the user namespace it counts in.

use alloc::vec::Vec;

use super::{Inode, Subject, access::cap};
use crate::{
    errno::{Errno, Result},
    ns::{UserNamespace, user::IdKind},
    task::Capabilities,
};

/// The attribute's name.
pub const NAME: &[u8] = b"security.capability";

const REVISION: u32 = 0xff00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;

/// What a program file brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCapabilities {
    /// What it permits is effective at once.
    pub effective: bool,
    /// Given whatever the caller has, within the bounding set.
    pub permitted: Capabilities,
    /// Given if the caller's inheritable set has it.
    pub inheritable: Capabilities,
    /// Whose root it is for: the kernel's id.
    root: u32,
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let at = bytes.get(index * 4..).and_then(|b| b.first_chunk());
    at.map_or(0, |b| u32::from_le_bytes(*b))
}

impl FileCapabilities {
    fn parse(bytes: &[u8]) -> Result<FileCapabilities> {
        let head = word(bytes, 0);
        let pairs = match (head & REVISION, bytes.len()) {
            (REVISION_1, 12) => 1,
            (REVISION_2, 20) | (REVISION_3, 24) => 2,
            _ => return Err(Errno::EINVAL),
        };
        let set = |first: usize| {
            let high = if pairs == 2 { word(bytes, first + 2) } else { 0 };
            Capabilities::from_bits_truncate(u64::from(high) << 32 | u64::from(word(bytes, first)))
        };
        Ok(FileCapabilities {
            effective: head & EFFECTIVE != 0,
            permitted: set(1),
            inheritable: set(2),
            root: word(bytes, 5), // 0 where there is none
        })
    }

    /// Of a file, for a caller in `ns`: none if they are for the root of another user namespace.
    pub fn of(inode: &dyn Inode, ns: &UserNamespace) -> Result<Option<FileCapabilities>> {
        let Ok(bytes) = inode.get_xattr(NAME) else { return Ok(None) };
        let found = FileCapabilities::parse(&bytes)?;
        let mut level = Some(ns);
        while let Some(ns) = level {
            if ns.to_kernel(IdKind::User, 0) == Some(found.root) {
                return Ok(Some(found));
            }
            level = ns.parent().map(|p| &**p);
        }
        Ok(None)
    }
}

/// What is stored when `subject` sets the attribute of `inode` to `value`. Someone who is not root of the machine
/// gives it to the root of their user namespace. `EINVAL`, `EPERM` without CAP_SETFCAP.
pub fn to_store(inode: &dyn Inode, subject: &Subject<'_>, value: &[u8]) -> Result<Vec<u8>> {
    let revision = word(value, 0) & REVISION;
    if !matches!((revision, value.len()), (REVISION_2, 20) | (REVISION_3, 24)) {
        return Err(Errno::EINVAL);
    }
    let m = inode.metadata();
    if !subject.capable_over(cap::SETFCAP, m.uid, m.gid) {
        return Err(Errno::EPERM);
    }
    let mut bytes = value.to_vec();
    let Some(ns) = subject.user_ns else {
        return Ok(bytes);
    };
    let root = if revision == REVISION_3 { word(value, 5) } else { 0 };
    let root = ns.to_kernel(IdKind::User, root).ok_or(Errno::EINVAL)?;
    bytes.truncate(20);
    bytes.extend_from_slice(&root.to_le_bytes());
    with_revision(&mut bytes, REVISION_3);
    Ok(bytes)
}

/// The stored attribute as `subject` sees it: without a root id where that is its own root. `EOVERFLOW` if it means
/// nothing there.
pub fn to_show(subject: &Subject<'_>, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    if word(&bytes, 0) & REVISION != REVISION_3 || bytes.len() != 24 {
        return Ok(bytes);
    }
    let root = word(&bytes, 5);
    let shown = match subject.user_ns {
        None => root,
        Some(ns) => ns.from_kernel(IdKind::User, root).ok_or(Errno::EOVERFLOW)?,
    };
    bytes.truncate(20);
    if shown == 0 {
        with_revision(&mut bytes, REVISION_2);
    } else {
        bytes.extend_from_slice(&shown.to_le_bytes());
    }
    Ok(bytes)
}

fn with_revision(bytes: &mut [u8], revision: u32) {
    let head = word(bytes, 0) & !REVISION | revision;
    if let Some(first) = bytes.first_chunk_mut() {
        *first = head.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn the_three_revisions_are_read() {
        let caps = FileCapabilities::parse(&bytes(&[REVISION_2 | 1, 1 << 10, 0, 1, 1 << 8])).unwrap();
        assert!(caps.effective && caps.root == 0);
        assert_eq!(caps.permitted, Capabilities::NET_BIND_SERVICE | Capabilities::MAC_OVERRIDE);
        assert_eq!(caps.inheritable, Capabilities::CHECKPOINT_RESTORE);
        let caps = FileCapabilities::parse(&bytes(&[REVISION_3, 1, 2, 0, 0, 7])).unwrap();
        assert_eq!((caps.effective, caps.root), (false, 7));
        assert!(FileCapabilities::parse(&bytes(&[REVISION_1, 1, 2])).is_ok());
        for bad in [bytes(&[REVISION_3, 1, 2, 0, 0]), bytes(&[REVISION_2, 1, 2]), Vec::new()] {
            assert_eq!(FileCapabilities::parse(&bad), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn a_root_of_its_own_is_not_shown() {
        let shown = to_show(&Subject::ROOT, bytes(&[REVISION_3 | 1, 1, 2, 3, 4, 0])).unwrap();
        assert_eq!(shown, bytes(&[REVISION_2 | 1, 1, 2, 3, 4]));
        let other = bytes(&[REVISION_3, 1, 2, 3, 4, 1000]);
        assert_eq!(to_show(&Subject::ROOT, other.clone()).unwrap(), other);
    }
}
