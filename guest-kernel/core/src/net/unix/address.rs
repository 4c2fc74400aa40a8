//! Names of sockets: paths and abstract names.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};

use super::{AF_UNIX, UnixSocket};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{Access, FileType, NewKind, Path, Subject, Walk, WalkFlags, ops},
    net::socket::Name,
    sync::SpinLock,
};

/// Bytes of `sun_path`.
const PATH_MAX: usize = 108;

/// A name as `bind` was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

impl Address {
    /// From a `struct sockaddr_un` of which the user gave `bytes`. `None`: only the family (autobind).
    pub fn decode(bytes: &[u8]) -> Result<Option<Address>> {
        let (family, name) = bytes.split_first_chunk::<2>().ok_or(Errno::EINVAL)?;
        if u16::from_ne_bytes(*family) != AF_UNIX || name.len() > PATH_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(match name {
            [] => None,
            [0, rest @ ..] => Some(Address::Abstract(rest.to_vec())),
            path => Some(Address::Path(path.split(|b| *b == 0).next().unwrap_or_default().to_vec())),
        })
    }

    /// The `struct sockaddr_un` of a name, or of none.
    pub fn encode(address: Option<&Address>) -> Name {
        let mut out = AF_UNIX.to_ne_bytes().to_vec();
        match address {
            None => {}
            Some(Address::Path(path)) => {
                out.extend_from_slice(path);
                out.push(0);
            }
            Some(Address::Abstract(name)) => {
                out.push(0);
                out.extend_from_slice(name);
            }
        }
        out.into()
    }
}

/// Where a bound socket is found: abstract names, of which each type of socket has its own, and inodes by device
/// and number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// In a network namespace.
    Abstract(u64, u32, Vec<u8>),
    Inode(u64, u64),
}

static BOUND: SpinLock<BTreeMap<Key, Weak<UnixSocket>>> = SpinLock::new(BTreeMap::new());

fn insert(key: Key, socket: &Weak<UnixSocket>) -> Result<()> {
    let mut bound = BOUND.lock();
    if bound.get(&key).is_some_and(|s| s.strong_count() > 0) {
        return Err(Errno::EADDRINUSE);
    }
    bound.retain(|_, s| s.strong_count() > 0);
    bound.insert(key, socket.clone());
    Ok(())
}

/// Gives `socket` a name; a path is made in the file system.
pub(super) fn bind(task: &TaskRef, socket: &UnixSocket, address: Option<Address>) -> Result<Address> {
    let abstract_key = |name: &[u8]| Key::Abstract(socket.net_ns(), socket.kind as u32, name.to_vec());
    let socket = &socket.me;
    match address {
        None => loop {
            let name = alloc::format!("{:05x}", crate::random::next_u64() & 0xf_ffff).into_bytes();
            match insert(abstract_key(&name), socket) {
                Err(Errno::EADDRINUSE) => {}
                outcome => return outcome.map(|()| Address::Abstract(name)),
            }
        },
        Some(Address::Abstract(name)) => {
            insert(abstract_key(&name), socket)?;
            Ok(Address::Abstract(name))
        }
        Some(Address::Path(path)) => {
            let credentials = task.credentials();
            let fs = task.fs()?;
            let walk = Walk { subject: Subject::of(&credentials), root: fs.root(), task: Some(task) };
            let parent = walk.parent(&fs.cwd(), &path)?;
            let in_use = |e| if e == Errno::EEXIST { Errno::EADDRINUSE } else { e };
            let name = ops::new_name(&parent, false).map_err(in_use)?;
            let mode = 0o777 & !fs.umask();
            let place =
                ops::create(&walk.subject, &parent.dir, name, NewKind::Socket, mode).map_err(in_use)?;
            insert(inode_key(&place)?, socket)?;
            Ok(Address::Path(path))
        }
    }
}

fn inode_key(place: &Path) -> Result<Key> {
    let m = place.inode()?.metadata();
    Ok(Key::Inode(m.dev, m.ino))
}

/// The socket of a name, for `socket`. `ECONNREFUSED` if nobody has it, `EPROTOTYPE` if it is of another type.
pub(super) fn find(task: &TaskRef, socket: &UnixSocket, address: &Address) -> Result<Arc<UnixSocket>> {
    let key = match address {
        Address::Abstract(name) => Key::Abstract(socket.net_ns(), socket.kind as u32, name.clone()),
        Address::Path(path) => {
            let credentials = task.credentials();
            let fs = task.fs()?;
            let walk = Walk { subject: Subject::of(&credentials), root: fs.root(), task: Some(task) };
            let place = walk.resolve(&fs.cwd(), path, WalkFlags::FOLLOW)?;
            let inode = place.inode()?;
            inode.permission(&walk.subject, Access::WRITE)?;
            if inode.kind() != FileType::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            inode_key(&place)?
        }
    };
    let found = BOUND.lock().get(&key).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)?;
    if found.kind == socket.kind { Ok(found) } else { Err(Errno::EPROTOTYPE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_decoded_and_encoded() {
        let path = [&AF_UNIX.to_ne_bytes()[..], b"/tmp/s\0junk"].concat();
        let a = Address::decode(&path).unwrap();
        assert_eq!(a, Some(Address::Path(b"/tmp/s".to_vec())));
        assert_eq!(Address::encode(a.as_ref())[..], path[..9]);
        let name = [&AF_UNIX.to_ne_bytes()[..], b"\0a\0b"].concat();
        assert_eq!(Address::encode(Address::decode(&name).unwrap().as_ref())[..], name);
        assert_eq!(Address::decode(&AF_UNIX.to_ne_bytes()), Ok(None));
        assert_eq!(Address::decode(&[2, 0, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(Address::decode(&[1]), Err(Errno::EINVAL));
    }
}
