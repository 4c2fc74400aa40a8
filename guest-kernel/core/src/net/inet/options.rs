//! Options of the levels IP, IPV6 and TCP that are numbers.
//!
//! All are kept and told as Linux does. Which do something is said at each. An option that would be a promise
//! that nothing here keeps (multicast groups, transparent proxies, segmentation) is not there: `ENOPROTOOPT`,
//! or `ENODEV` for a group, since no interface hears groups.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use super::address::Version;
use crate::{
    errno::{Errno, Result},
    net::socket::Kind,
    syscall::UserPtr,
};

pub(super) const SOL_IP: i32 = 0;
pub(super) const SOL_TCP: i32 = 6;
pub(super) const SOL_UDP: i32 = 17;
pub(super) const SOL_IPV6: i32 = 41;

/// Which numbers an option takes.
enum Valid {
    /// Any; it is on unless that is 0.
    Flag,
    /// Those from the first to the second.
    Range(i32, i32),
    /// The same, and -1 for the default.
    OrDefault(i32, i32),
    /// Told, not set.
    Never,
}

struct Row {
    level: i32,
    name: i32,
    default: i32,
    valid: Valid,
}

use Valid::{Flag, Never, OrDefault, Range};

macro_rules! rows {
    ($($(#[$doc:meta])* $id:ident $level:ident $name:literal = $default:literal, $valid:expr;)*) => {
        /// The options.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Opt {
            $($(#[$doc])* $id),*
        }

        const ROWS: &[Row] = &[$(Row { level: $level, name: $name, default: $default, valid: $valid }),*];
        const ALL: &[Opt] = &[$(Opt::$id),*];
    };
}

rows! {
    /// Told to receivers as what packets had (`IP_RECVTOS`).
    Tos SOL_IP 1 = 0, Range(0, 255);
    /// Told to receivers as what packets had (`IP_RECVTTL`).
    Ttl SOL_IP 2 = 64, OrDefault(1, 255);
    /// Nothing: no packet has options.
    RecvOpts SOL_IP 6 = 0, Flag;
    /// Nothing, as above.
    RetOpts SOL_IP 7 = 0, Flag;
    /// Real.
    PktInfo SOL_IP 8 = 0, Flag;
    /// Datagrams for other hosts are not fragmented with 2 and 3 (`EMSGSIZE`).
    MtuDiscover SOL_IP 10 = 1, Range(0, 5);
    /// Real.
    RecvErr SOL_IP 11 = 0, Flag;
    /// Real.
    RecvTtl SOL_IP 12 = 0, Flag;
    /// Real.
    RecvTos SOL_IP 13 = 0, Flag;
    /// Real.
    FreeBind SOL_IP 15 = 0, Flag;
    /// Nothing: everything has its default.
    MinTtl SOL_IP 21 = 0, Range(0, 255);
    /// Real.
    BindAddressNoPort SOL_IP 24 = 0, Flag;
    /// Nothing: there is no multicast.
    MulticastTtl SOL_IP 33 = 1, OrDefault(0, 255);
    /// Nothing, as above.
    MulticastLoop SOL_IP 34 = 1, Flag;
    /// Nothing, as above.
    MulticastAll SOL_IP 49 = 1, Range(0, 1);

    /// Told to receivers as what packets had (`IPV6_RECVHOPLIMIT`).
    UnicastHops SOL_IPV6 16 = 64, OrDefault(0, 255);
    /// Nothing: there is no multicast.
    MulticastHops6 SOL_IPV6 18 = 1, OrDefault(0, 255);
    /// Nothing, as above.
    MulticastLoop6 SOL_IPV6 19 = 1, Range(0, 1);
    /// As of IPv4.
    MtuDiscover6 SOL_IPV6 23 = 1, Range(0, 5);
    /// Real.
    RecvErr6 SOL_IPV6 25 = 0, Flag;
    /// Real.
    V6Only SOL_IPV6 26 = 0, Flag;
    /// Real.
    RecvPktInfo6 SOL_IPV6 49 = 0, Flag;
    /// Real.
    RecvHopLimit SOL_IPV6 51 = 0, Flag;
    /// Real.
    DontFrag SOL_IPV6 62 = 0, Flag;
    /// Real.
    RecvTClass SOL_IPV6 66 = 0, Flag;
    /// Told to receivers as what packets had.
    TClass SOL_IPV6 67 = 0, OrDefault(0, 255);
    /// Nothing: no packet has a label.
    AutoFlowLabel SOL_IPV6 70 = 1, Flag;
    /// Real.
    FreeBind6 SOL_IPV6 78 = 0, Flag;

    /// Real with other hosts; within the machine what is sent has arrived.
    NoDelay SOL_TCP 1 = 0, Flag;
    /// Real with other hosts; within the machine there are no segments. Told before there is a connection.
    MaxSegment SOL_TCP 2 = 536, Range(88, 32_767);
    /// Real with other hosts; within the machine nothing is congested. 1 is `reno`, else it is `cubic`.
    Congestion SOL_TCP 13 = 0, Never;
    /// Real with other hosts.
    Cork SOL_TCP 3 = 0, Flag;
    /// Real with other hosts, like all about keeping alive; a socket of the machine cannot vanish unnoticed.
    KeepIdle SOL_TCP 4 = 7200, Range(1, 32_767);
    /// As above.
    KeepInterval SOL_TCP 5 = 75, Range(1, 32_767);
    /// As above.
    KeepCount SOL_TCP 6 = 9, Range(1, 127);
    /// Real with other hosts.
    SynCount SOL_TCP 7 = 6, Range(1, 127);
    /// Real with other hosts.
    Linger2 SOL_TCP 8 = 60, Range(-1, 120);
    /// Nothing: connections are handed out at once, as Linux may, too.
    DeferAccept SOL_TCP 9 = 0, Range(i32::MIN, i32::MAX);
    /// Nothing: there is no window.
    WindowClamp SOL_TCP 10 = 0, Range(0, i32::MAX);
    /// Nothing: acknowledgements wait for 40 ms at most, after the first few.
    QuickAck SOL_TCP 12 = 1, Flag;
    /// Nothing: nothing is sent twice.
    ThinLinear SOL_TCP 16 = 0, Range(0, 1);
    /// Real with other hosts.
    UserTimeout SOL_TCP 18 = 0, Range(0, i32::MAX);
    /// Nothing: a connection is made before its first byte is sent in any case.
    FastOpen SOL_TCP 23 = 0, Range(0, i32::MAX);
    /// Nothing, as above.
    FastOpenConnect SOL_TCP 30 = 0, Range(0, 1);
    /// Nothing: what is sent has arrived.
    NotSentLowWater SOL_TCP 25 = 0, Range(i32::MIN, i32::MAX);
    /// Real: a datagram is sent in parts until it is off.
    UdpCork SOL_UDP 1 = 0, Flag;
    /// Told when asked for with `IP_MTU` of a connected socket.
    Mtu SOL_IP 14 = 65_535, Never;
    /// The same for IPv6.
    Mtu6 SOL_IPV6 24 = 65_536, Never;
}

/// The values of one socket.
pub(super) struct Options([AtomicI32; ROWS.len()]);

impl Default for Options {
    fn default() -> Options {
        let options = Options(core::array::from_fn(|_| AtomicI32::new(0)));
        for (value, row) in options.0.iter().zip(ROWS) {
            value.store(row.default, Relaxed);
        }
        options
    }
}

impl Options {
    /// What a new socket has.
    pub fn new(version: Version) -> Options {
        let options = Options::default();
        if version == Version::V6 {
            options.store(Opt::MulticastAll, 0);
        }
        options
    }

    /// The same values for an accepted connection.
    pub fn inherit(&self) -> Options {
        let options = Options::default();
        for (to, from) in options.0.iter().zip(&self.0) {
            to.store(from.load(Relaxed), Relaxed);
        }
        options
    }

    /// The value of one.
    pub fn get(&self, option: Opt) -> i32 {
        self.0.get(option as usize).map_or(0, |value| value.load(Relaxed))
    }

    pub fn is_on(&self, option: Opt) -> bool {
        self.get(option) != 0
    }

    /// Which option a program means. `ENOPROTOOPT`; `ENODEV` for membership in groups.
    pub fn find(version: Version, kind: Kind, level: i32, name: i32) -> Result<Opt> {
        let there = match level {
            SOL_IP => true,
            SOL_IPV6 => version == Version::V6,
            SOL_TCP => kind == Kind::Stream,
            SOL_UDP => kind == Kind::Datagram,
            _ => false,
        };
        let groups = match level {
            SOL_IP => [35, 36, 39, 40, 42].contains(&name),
            SOL_IPV6 => [20, 21, 42, 45].contains(&name),
            _ => false,
        };
        if there && groups {
            return Err(Errno::ENODEV);
        }
        let at = ROWS.iter().position(|row| there && (row.level, row.name) == (level, name));
        at.and_then(|at| ALL.get(at)).copied().ok_or(Errno::ENOPROTOOPT)
    }

    /// Sets one. `EINVAL`.
    pub fn set(&self, option: Opt, value: i32) -> Result<()> {
        let Some(row) = ROWS.get(option as usize) else { return Err(Errno::ENOPROTOOPT) };
        let value = match row.valid {
            Flag => i32::from(value != 0),
            Range(first, last) if (first..=last).contains(&value) => value,
            OrDefault(..) if value == -1 => row.default,
            OrDefault(first, last) if (first..=last).contains(&value) => value,
            Never => return Err(Errno::ENOPROTOOPT),
            _ => return Err(Errno::EINVAL),
        };
        self.store(option, value);
        Ok(())
    }

    /// Sets one to what was checked elsewhere.
    pub fn store(&self, option: Opt, value: i32) {
        if let Some(cell) = self.0.get(option as usize) {
            cell.store(value, Relaxed);
        }
    }

    /// getsockopt of a socket: the value of an option that is a number. `ENOTCONN` for those of a path, if it is not
    /// `connected`.
    pub fn value(
        &self,
        version: Version,
        kind: Kind,
        connected: bool,
        level: i32,
        name: i32,
    ) -> Result<Vec<u8>> {
        const IP_OPTIONS: i32 = 4;
        if (level, name) == (SOL_IP, IP_OPTIONS) {
            return Ok(Vec::new());
        }
        let own = level == SOL_IP || level == if kind == Kind::Stream { SOL_TCP } else { SOL_UDP };
        if version == Version::V4 && !own {
            return Err(Errno::EOPNOTSUPP);
        }
        match Options::find(version, kind, level, name)? {
            Opt::Mtu | Opt::Mtu6 if !connected => Err(Errno::ENOTCONN),
            option => Ok(self.get(option).to_ne_bytes().to_vec()),
        }
    }

    /// setsockopt of a socket that is `bound` or not.
    pub fn change(
        &self,
        version: Version,
        kind: Kind,
        bound: bool,
        (level, name): (i32, i32),
        (value, len): (u64, usize),
    ) -> Result<()> {
        let option = Options::find(version, kind, level, name)?;
        let value = read_number(level, value, len)?;
        if option == Opt::V6Only && bound {
            return Err(Errno::EINVAL);
        }
        match option {
            Opt::MulticastTtl if kind == Kind::Stream => Err(Errno::EINVAL),
            // What says that there is congestion is the connection's.
            Opt::Tos if kind == Kind::Stream => self.set(option, value & !3),
            Opt::TClass if kind == Kind::Stream && value != -1 => self.set(option, value & !3),
            // The program has no opinion any more.
            Opt::MaxSegment if value == 0 => {
                self.store(option, 536);
                Ok(())
            }
            _ => self.set(option, value),
        }
    }
}

/// The number a program sets an option to: of `SOL_IP` a byte will do.
pub(super) fn read_number(level: i32, value: u64, len: usize) -> Result<i32> {
    match len {
        4.. => UserPtr::<i32>::new(value).read(),
        1.. if level == SOL_IP => UserPtr::<u8>::new(value).read().map(i32::from),
        0 if level == SOL_IP => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_where_they_belong() {
        let find = Options::find;
        assert_eq!(find(Version::V4, Kind::Stream, SOL_TCP, 1), Ok(Opt::NoDelay));
        assert_eq!(find(Version::V4, Kind::Datagram, SOL_TCP, 1), Err(Errno::ENOPROTOOPT));
        assert_eq!(find(Version::V4, Kind::Stream, SOL_IPV6, 26), Err(Errno::ENOPROTOOPT));
        assert_eq!(find(Version::V6, Kind::Stream, SOL_IPV6, 26), Ok(Opt::V6Only));
        assert_eq!(find(Version::V6, Kind::Datagram, SOL_IP, 2), Ok(Opt::Ttl));
        assert_eq!(find(Version::V4, Kind::Datagram, SOL_IP, 35), Err(Errno::ENODEV));
    }

    #[test]
    fn values_are_checked_and_have_defaults() {
        let options = Options::default();
        assert_eq!((options.get(Opt::Ttl), options.get(Opt::KeepIdle)), (64, 7200));
        assert_eq!(options.set(Opt::Ttl, 0), Err(Errno::EINVAL));
        assert_eq!(options.set(Opt::Ttl, 7), Ok(()));
        assert_eq!(options.inherit().get(Opt::Ttl), 7);
        assert_eq!(options.set(Opt::Ttl, -1), Ok(()));
        assert_eq!(options.get(Opt::Ttl), 64);
        assert_eq!(options.set(Opt::NoDelay, 77), Ok(()));
        assert_eq!(options.get(Opt::NoDelay), 1);
        assert_eq!(options.set(Opt::Mtu, 1), Err(Errno::ENOPROTOOPT));
    }
}
