//! The headers of a program, as `execve` reads them in the guest.

use ringfence_sentry::exec::elf::Header;

/// Parses `data` as a file whose program headers follow its header.
pub fn run(data: &[u8]) {
    let Ok(header) = Header::parse(data) else { return };
    let len = header.program_headers_len();
    assert!(len <= 1 << 16, "the kernel would allocate {len} bytes");
    let Some(table) = data.get(64..).and_then(|rest| rest.get(..len)) else { return };
    if let Ok(elf) = header.parse_segments(table) {
        let span = elf.span();
        assert!(span.start <= span.end);
    }
}
