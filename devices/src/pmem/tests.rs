//! The backing under files of all kinds, and flush requests.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::virtio::mock::*;

/// A file of its own for a test, removed at the end.
struct Image(PathBuf);

impl Image {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("ringfence-pmem-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a guest would see of the region.
fn region(backing: &Backing, at: usize, len: usize) -> Vec<u8> {
    assert!((at + len) as u64 <= backing.region_size());
    let start = backing.host_address() as usize + at;
    // SAFETY: inside the mapping, which lives as long as `backing`, and the test does not truncate the file.
    (0..len).map(|i| unsafe { ((start + i) as *const u8).read_volatile() }).collect()
}

#[test]
fn a_file_becomes_an_aligned_region_with_a_zero_tail() {
    let image = Image::new("region", &[7; 5000]);
    let backing = Backing::open(&image.0).unwrap();
    assert_eq!(backing.file_size(), 5000);
    assert_eq!(backing.region_size(), REGION_ALIGN);
    assert_eq!(backing.host_address() % REGION_ALIGN, 0);
    assert_eq!(region(&backing, 0, 5000), [7; 5000]);
    // The rest of the last page, the pages after it, the last byte of the region.
    assert_eq!(region(&backing, 5000, 8192), [0; 8192]);
    assert_eq!(region(&backing, REGION_ALIGN as usize - 1, 1), [0]);
    backing.check_intact().unwrap();
}

#[test]
fn the_mapping_cannot_be_written_cve_2026_24834() {
    let image = Image::new("readonly", &[7; 4096]);
    let backing = Backing::open(&image.0).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", backing.host_address());
    let line = maps.lines().find(|line| line.starts_with(&start)).expect("mapped");
    assert!(line.contains(" r--s "), "{line}");
    // Not even made writable: the descriptor was opened for reading.
    // SAFETY: changing (or here: failing to change) the protection of our own mapping.
    let widened = unsafe {
        rustix::mm::mprotect(
            backing.host_address() as *mut _,
            4096,
            rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE,
        )
    };
    assert_eq!(widened, Err(rustix::io::Errno::ACCESS));
}

#[test]
fn what_is_no_image_is_refused() {
    let empty = Image::new("empty", &[]);
    assert!(matches!(Backing::open(&empty.0), Err(BackingError::Empty { .. })));
    let dir = std::env::temp_dir();
    assert!(matches!(Backing::open(&dir), Err(BackingError::NotAFile { .. })));
    assert!(matches!(Backing::open("/dev/null".as_ref()), Err(BackingError::NotAFile { .. })));
    let missing = dir.join("ringfence-no-such-image");
    let error = Backing::open(&missing).unwrap_err().to_string();
    assert!(error.contains("ringfence-no-such-image") && error.contains("No such file"), "{error}");
}

#[test]
fn a_replaced_image_does_not_matter_a_truncated_one_is_told() {
    let image = Image::new("truncated", &[7; 10_000]);
    let backing = Backing::open(&image.0).unwrap();
    let other = Image::new("other", &[9; 100]);
    fs::rename(&other.0, &image.0).unwrap();
    backing.check_intact().unwrap();
    assert_eq!(region(&backing, 0, 16), [7; 16]);

    let backing = Backing::open(&image.0).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&image.0).unwrap();
    file.set_len(10).unwrap();
    assert!(backing.check_intact().unwrap_err().to_string().contains("truncated"));
    let backing = Backing::open(&image.0).unwrap();
    // Time stamps are as coarse as the kernel's tick.
    std::thread::sleep(std::time::Duration::from_millis(20));
    file.write_all(b"x").unwrap();
    assert!(backing.check_intact().unwrap_err().to_string().contains("written"));
}

#[test]
fn configuration_and_flushes() {
    let mut driver = MockDriver::running(Pmem::new(1 << 32, REGION_ALIGN).unwrap(), 16, 0);
    assert_eq!(driver.read(0x100), 0);
    assert_eq!(driver.read(0x104), 1);
    assert_eq!(driver.read(0x108), REGION_ALIGN as u32);
    // Beyond the end, and far beyond.
    assert_eq!(driver.read(0x110), 0);
    let mut wide = [0xff; 8];
    driver.transport.read(u64::MAX, &mut wide);
    assert_eq!(wide, [0; 8]);

    for (request, response) in [(0u32, 0u32), (1, 1), (u32::MAX, 1)] {
        driver.put(BUFFERS, &request.to_le_bytes());
        driver.put(BUFFERS + 64, &[0xff; 4]);
        driver.add(0, &[(BUFFERS, 4, false), (BUFFERS + 64, 4, true)]);
        driver.device.lock().unwrap().process_requests();
        assert_eq!(driver.take_used(0).map(|used| used.1), Some(4));
        assert_eq!(driver.bytes(BUFFERS + 64, 4), response.to_le_bytes());
    }
    // No room for the answer.
    driver.add(0, &[(BUFFERS, 4, false), (BUFFERS + 64, 3, true)]);
    driver.device.lock().unwrap().process_requests();
    assert_ne!(driver.status() & NEEDS_RESET, 0);
}
