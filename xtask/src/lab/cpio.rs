//! The initramfs: a `newc` cpio archive with one file.

/// An archive with the directories and the executable file `init`, as the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst` describes it.
pub fn initramfs(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(init.len() + 1024);
    for name in ["dev", "root"] {
        entry(&mut archive, name, 0o040755, &[]);
    }
    entry(&mut archive, "init", 0o100755, init);
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let inode = archive.len() as u32 + 1;
    let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
