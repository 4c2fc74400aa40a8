//! All sockets, for `/proc/net/unix`.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    fmt::{Result, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use super::UnixSocket;
use crate::sync::SpinLock;

static ALL: SpinLock<BTreeMap<u64, Weak<UnixSocket>>> = SpinLock::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Adds a socket; the number is for [`remove`].
pub(super) fn add(socket: &Weak<UnixSocket>) -> u64 {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    ALL.lock().insert(number, socket.clone());
    number
}

pub(super) fn remove(number: u64) {
    let old = ALL.lock().remove(&number);
    drop(old);
}

/// The text of `/proc/net/unix` in network namespace `net_ns`. Addresses are zero, as for those who may not see them.
pub fn show(out: &mut dyn Write, net_ns: u64) -> Result {
    writeln!(out, "Num       RefCount Protocol Flags    Type St Inode Path")?;
    let all: Vec<Arc<UnixSocket>> = ALL.lock().values().filter_map(Weak::upgrade).collect();
    for socket in all.into_iter().filter(|s| s.net_ns() == net_ns) {
        let r = socket.report();
        write!(
            out,
            "{:016x}: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}",
            0, r.references, 0, r.flags, r.kind, r.state, r.ino
        )?;
        match r.name.as_deref().and_then(|n| n.get(2..)) {
            None => {}
            Some([0, name @ ..]) => {
                let name: Vec<u8> = name.iter().map(|b| if *b == 0 { b'@' } else { *b }).collect();
                write!(out, " @{}", alloc::string::String::from_utf8_lossy(&name))?;
            }
            Some(path) => {
                let path = path.strip_suffix(b"\0").unwrap_or(path);
                write!(out, " {}", alloc::string::String::from_utf8_lossy(path))?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
