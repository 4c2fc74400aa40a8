//! An image, as the guest mounts it.

use std::ops::ControlFlow;

use ringfence_erofs::{FileType, Filesystem};

/// Directories and files that are looked at.
const MOST: usize = 200;
/// Where the compatible features are: after magic and checksum of the superblock, which is at 1024.
const FEATURES: usize = 1024 + 8;

/// Walks through `data` as an image: every directory, link, attribute, and the ends of every file.
pub fn run(data: &[u8]) {
    let mut image = data.to_vec();
    // Chance finds no checksum: the superblock says that it has none.
    if let Some(features) = image.get_mut(FEATURES) {
        *features &= !1;
    }
    let Ok(fs) = Filesystem::open(&image[..]) else { return };
    let mut queue = vec![fs.superblock().root_nid];
    let mut seen = 0;
    while let Some(nid) = queue.pop() {
        seen += 1;
        let Ok(inode) = fs.inode(nid) else { continue };
        let mut buffer = [0; 5000];
        let _ = fs.read(&inode, 0, &mut buffer);
        let _ = fs.read(&inode, inode.size().saturating_sub(100), &mut buffer);
        let _ = fs.read(&inode, u64::MAX - 10, &mut buffer);
        let _ = fs.extent(&inode, inode.size() / 2);
        let mut attributes = 0;
        let _ = fs.xattrs(&inode, |attribute| {
            let _ = fs.xattr_value(attribute, &mut buffer);
            attributes += 1;
            if attributes < 100 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let _ = fs.xattr(&inode, b"user.name");
        if inode.file_type() == FileType::Symlink {
            let _ = fs.read_link(&inode, &mut buffer);
        }
        let _ = fs.lookup(&inode, b"name");
        let mut entries = 0;
        let _ = fs.read_dir(&inode, 0, &mut [0; 4096], |entry| {
            if seen + queue.len() < MOST {
                queue.push(entry.nid);
            }
            entries += 1;
            if entries < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
}
