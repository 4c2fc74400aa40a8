//! Kinds of system call arguments: pure data, from which strace prints, the documentation is made, and the fuzzer
//! and the conformance tests (which include this file) choose what to pass.

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// Signed decimal.
    Int,
    /// Unsigned decimal.
    Uint,
    /// Hexadecimal.
    Hex,
    /// A file descriptor (`AT_FDCWD` by name).
    Fd,
    /// A user address.
    Pointer,
    /// A NUL-terminated string in user memory.
    Str,
    /// A NULL-terminated vector of strings.
    StrVec,
    /// A file mode, octal.
    Mode,
    /// A signal number, by name.
    Signal,
    /// A process or thread.
    Pid,
    /// Bits with names.
    Flags(&'static Names),
    /// One of these.
    Choice(&'static Names),
    /// Memory the call reads.
    In(Layout, Count),
    /// Memory the call writes.
    Out(Layout, Count),
    /// Memory the call reads and then writes.
    InOut(Layout, Count),
}

/// Values with names. Among flags, those of several bits come before their parts, and one of value 0 is what it is called
/// that the two lowest bits are clear.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// What they are, for the documentation.
    pub what: &'static str,
    /// Them.
    pub values: &'static [(u64, &'static str)],
}

/// What lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Bytes, shown as text.
    Bytes,
    /// `int` or `unsigned`, or an array of them.
    I32,
    /// 64-bit words.
    U64,
    /// `timespec`.
    TimeSpec,
    /// `timeval`.
    TimeVal,
    /// `itimerspec`.
    ItimerSpec,
    /// `itimerval`.
    ItimerVal,
    /// `sigset_t` of 64 bits.
    SigSet,
    /// The kernel's `sigaction`.
    SigAction,
    /// `siginfo_t`.
    SigInfo,
    /// An `iovec` whose bytes the call reads.
    IoVecIn,
    /// An `iovec` whose bytes the call writes.
    IoVecOut,
    /// `msghdr`.
    Message,
    /// A socket address; its length is another argument.
    SockAddr,
    /// `stat`.
    Stat,
    /// `statx`.
    Statx,
    /// `pollfd`.
    PollFd,
    /// `epoll_event`, packed.
    EpollEvent,
    /// `rlimit64`.
    Limit,
    /// A wait status.
    Status,
    /// So many bytes that are not looked into.
    Opaque(u16),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One.
    One,
    /// As many as this argument says.
    Arg(usize),
    /// As many bytes as the call returns.
    Result,
    /// So many.
    Fixed(usize),
    /// As many bytes as the `int` that this argument points to says.
    At(usize),
}

impl Layout {
    /// Bytes of one.
    pub const fn size(self) -> usize {
        match self {
            Layout::Bytes | Layout::SockAddr => 1,
            Layout::I32 | Layout::Status => 4,
            Layout::U64 | Layout::SigSet | Layout::PollFd => 8,
            Layout::EpollEvent => 12,
            Layout::TimeSpec | Layout::TimeVal | Layout::IoVecIn | Layout::IoVecOut | Layout::Limit => 16,
            Layout::ItimerSpec | Layout::ItimerVal | Layout::SigAction => 32,
            Layout::Message => 56,
            Layout::SigInfo => 128,
            Layout::Stat => 144,
            Layout::Statx => 256,
            Layout::Opaque(size) => size as usize,
        }
    }
}

// Short names, for the table of calls.
pub(crate) mod short {
    #![allow(missing_docs)]
    pub use super::ArgKind::{
        Choice, Fd, Flags, Hex, In, InOut, Int, Mode, Out, Pid, Pointer, Signal, Str, StrVec, Uint,
    };
    pub use super::Count::{Arg, At, Fixed, One, Result};
    pub use super::Layout::*;
    pub use super::flags::*;
}

/// The values with names.
pub mod flags {
    #![allow(missing_docs)]
    use super::Names;

    macro_rules! names {
        ($($constant:ident $what:literal: $($value:literal $name:ident)*;)*) => {
            $(pub static $constant: Names = Names { what: $what, values: &[$(($value, stringify!($name))),*] };)*
            /// All of them.
            pub static ALL: &[&Names] = &[$(&$constant),*];
        };
    }

    names! {
        OPEN "open flags": 0 O_RDONLY 0x410000 O_TMPFILE 0x101000 O_SYNC 1 O_WRONLY 2 O_RDWR 0x40 O_CREAT 0x80 O_EXCL 0x100 O_NOCTTY 0x200 O_TRUNC
            0x400 O_APPEND 0x800 O_NONBLOCK 0x1000 O_DSYNC 0x2000 O_ASYNC 0x4000 O_DIRECT 0x8000 O_LARGEFILE 0x10000 O_DIRECTORY
            0x20000 O_NOFOLLOW 0x40000 O_NOATIME 0x80000 O_CLOEXEC 0x200000 O_PATH;
        PROT "memory protection": 1 PROT_READ 2 PROT_WRITE 4 PROT_EXEC 0x1000000 PROT_GROWSDOWN 0x2000000 PROT_GROWSUP;
        MAP "mapping flags": 3 MAP_SHARED_VALIDATE 1 MAP_SHARED 2 MAP_PRIVATE 0x10 MAP_FIXED 0x20 MAP_ANONYMOUS 0x40 MAP_32BIT 0x100 MAP_GROWSDOWN
            0x800 MAP_DENYWRITE 0x1000 MAP_EXECUTABLE 0x2000 MAP_LOCKED 0x4000 MAP_NORESERVE 0x8000 MAP_POPULATE 0x10000 MAP_NONBLOCK
            0x20000 MAP_STACK 0x40000 MAP_HUGETLB 0x80000 MAP_SYNC 0x100000 MAP_FIXED_NOREPLACE;
        MREMAP "mremap flags": 1 MREMAP_MAYMOVE 2 MREMAP_FIXED 4 MREMAP_DONTUNMAP;
        MSYNC "msync flags": 1 MS_ASYNC 2 MS_INVALIDATE 4 MS_SYNC;
        MADVISE "memory advice": 0 MADV_NORMAL 1 MADV_RANDOM 2 MADV_SEQUENTIAL 3 MADV_WILLNEED 4 MADV_DONTNEED 8 MADV_FREE 9 MADV_REMOVE
            10 MADV_DONTFORK 11 MADV_DOFORK 12 MADV_MERGEABLE 13 MADV_UNMERGEABLE 14 MADV_HUGEPAGE 15 MADV_NOHUGEPAGE 16 MADV_DONTDUMP
            17 MADV_DODUMP 18 MADV_WIPEONFORK 19 MADV_KEEPONFORK 20 MADV_COLD 21 MADV_PAGEOUT 22 MADV_POPULATE_READ 23 MADV_POPULATE_WRITE
            24 MADV_DONTNEED_LOCKED 25 MADV_COLLAPSE;
        MLOCKALL "mlockall flags": 1 MCL_CURRENT 2 MCL_FUTURE 4 MCL_ONFAULT;
        CLONE "clone flags": 0x80 CLONE_NEWTIME 0x100 CLONE_VM 0x200 CLONE_FS 0x400 CLONE_FILES 0x800 CLONE_SIGHAND 0x1000 CLONE_PIDFD 0x2000 CLONE_PTRACE
            0x4000 CLONE_VFORK 0x8000 CLONE_PARENT 0x10000 CLONE_THREAD 0x20000 CLONE_NEWNS 0x40000 CLONE_SYSVSEM 0x80000 CLONE_SETTLS
            0x100000 CLONE_PARENT_SETTID 0x200000 CLONE_CHILD_CLEARTID 0x400000 CLONE_DETACHED 0x800000 CLONE_UNTRACED 0x1000000 CLONE_CHILD_SETTID
            0x2000000 CLONE_NEWCGROUP 0x4000000 CLONE_NEWUTS 0x8000000 CLONE_NEWIPC 0x10000000 CLONE_NEWUSER 0x20000000 CLONE_NEWPID
            0x40000000 CLONE_NEWNET 0x80000000 CLONE_IO 17 SIGCHLD;
        AT "at flags": 0x100 AT_SYMLINK_NOFOLLOW 0x200 AT_REMOVEDIR 0x400 AT_SYMLINK_FOLLOW 0x800 AT_NO_AUTOMOUNT 0x1000 AT_EMPTY_PATH
            0x2000 AT_STATX_FORCE_SYNC 0x4000 AT_STATX_DONT_SYNC 0x8000 AT_RECURSIVE;
        ACCESS "access modes": 4 R_OK 2 W_OK 1 X_OK;
        WHENCE "whence": 0 SEEK_SET 1 SEEK_CUR 2 SEEK_END 3 SEEK_DATA 4 SEEK_HOLE;
        HOW "how a mask changes": 0 SIG_BLOCK 1 SIG_UNBLOCK 2 SIG_SETMASK;
        SIGACTION "sigaction flags": 1 SA_NOCLDSTOP 2 SA_NOCLDWAIT 4 SA_SIGINFO 0x4000000 SA_RESTORER 0x8000000 SA_ONSTACK 0x10000000 SA_RESTART
            0x40000000 SA_NODEFER 0x80000000 SA_RESETHAND;
        WAIT "wait options": 1 WNOHANG 2 WUNTRACED 4 WEXITED 8 WCONTINUED 0x1000000 WNOWAIT 0x20000000 __WNOTHREAD 0x40000000 __WALL 0x80000000 __WCLONE;
        IDTYPE "kinds of id": 0 P_ALL 1 P_PID 2 P_PGID 3 P_PIDFD;
        DOMAIN "socket domains": 0 AF_UNSPEC 1 AF_UNIX 2 AF_INET 10 AF_INET6 16 AF_NETLINK 17 AF_PACKET 40 AF_VSOCK;
        SOCK "socket types": 1 SOCK_STREAM 2 SOCK_DGRAM 3 SOCK_RAW 5 SOCK_SEQPACKET 0x800 SOCK_NONBLOCK 0x80000 SOCK_CLOEXEC;
        SOCKFLAGS "socket flags": 0x800 SOCK_NONBLOCK 0x80000 SOCK_CLOEXEC;
        SHUT "ends of a socket": 0 SHUT_RD 1 SHUT_WR 2 SHUT_RDWR;
        MSG "message flags": 1 MSG_OOB 2 MSG_PEEK 4 MSG_DONTROUTE 8 MSG_CTRUNC 0x20 MSG_TRUNC 0x40 MSG_DONTWAIT 0x80 MSG_EOR 0x100 MSG_WAITALL
            0x4000 MSG_NOSIGNAL 0x8000 MSG_MORE 0x10000 MSG_WAITFORONE 0x40000000 MSG_CMSG_CLOEXEC;
        SOL "option levels": 1 SOL_SOCKET 0 IPPROTO_IP 6 IPPROTO_TCP 17 IPPROTO_UDP 41 IPPROTO_IPV6 270 SOL_NETLINK;
        SO "socket options": 2 SO_REUSEADDR 3 SO_TYPE 4 SO_ERROR 5 SO_DONTROUTE 6 SO_BROADCAST 7 SO_SNDBUF 8 SO_RCVBUF 9 SO_KEEPALIVE 10 SO_OOBINLINE
            13 SO_LINGER 15 SO_REUSEPORT 16 SO_PASSCRED 17 SO_PEERCRED 18 SO_RCVLOWAT 20 SO_RCVTIMEO 21 SO_SNDTIMEO 30 SO_ACCEPTCONN
            31 SO_PEERSEC 38 SO_PROTOCOL 39 SO_DOMAIN 42 SO_PEEK_OFF 59 SO_PEERGROUPS 77 SO_PEERPIDFD;
        EPOLL_OP "epoll operations": 1 EPOLL_CTL_ADD 2 EPOLL_CTL_DEL 3 EPOLL_CTL_MOD;
        EPOLL "poll events": 1 EPOLLIN 2 EPOLLPRI 4 EPOLLOUT 8 EPOLLERR 0x10 EPOLLHUP 0x20 POLLNVAL 0x40 EPOLLRDNORM 0x80 EPOLLRDBAND 0x100 EPOLLWRNORM
            0x200 EPOLLWRBAND 0x400 EPOLLMSG 0x2000 EPOLLRDHUP 0x10000000 EPOLLEXCLUSIVE 0x20000000 EPOLLWAKEUP 0x40000000 EPOLLONESHOT 0x80000000 EPOLLET;
        CLOEXEC "close on exec": 0x80000 O_CLOEXEC;
        NONBLOCK "descriptor flags": 0x800 O_NONBLOCK 0x80000 O_CLOEXEC;
        PIPE "pipe flags": 0x80 O_NOTIFICATION_PIPE 0x800 O_NONBLOCK 0x4000 O_DIRECT 0x80000 O_CLOEXEC;
        EVENTFD "eventfd flags": 1 EFD_SEMAPHORE 0x800 EFD_NONBLOCK 0x80000 EFD_CLOEXEC;
        TIMER "timer flags": 1 TIMER_ABSTIME 2 TFD_TIMER_CANCEL_ON_SET;
        CLOCK "clocks": 0 CLOCK_REALTIME 1 CLOCK_MONOTONIC 2 CLOCK_PROCESS_CPUTIME_ID 3 CLOCK_THREAD_CPUTIME_ID 4 CLOCK_MONOTONIC_RAW
            5 CLOCK_REALTIME_COARSE 6 CLOCK_MONOTONIC_COARSE 7 CLOCK_BOOTTIME 8 CLOCK_REALTIME_ALARM 9 CLOCK_BOOTTIME_ALARM 11 CLOCK_TAI;
        ITIMER "interval timers": 0 ITIMER_REAL 1 ITIMER_VIRTUAL 2 ITIMER_PROF;
        FUTEX "futex operations": 0 FUTEX_WAIT 1 FUTEX_WAKE 3 FUTEX_REQUEUE 4 FUTEX_CMP_REQUEUE 5 FUTEX_WAKE_OP 6 FUTEX_LOCK_PI 7 FUTEX_UNLOCK_PI
            8 FUTEX_TRYLOCK_PI 9 FUTEX_WAIT_BITSET 10 FUTEX_WAKE_BITSET 11 FUTEX_WAIT_REQUEUE_PI 12 FUTEX_CMP_REQUEUE_PI 13 FUTEX_LOCK_PI2
            128 FUTEX_WAIT_PRIVATE 129 FUTEX_WAKE_PRIVATE 131 FUTEX_REQUEUE_PRIVATE 132 FUTEX_CMP_REQUEUE_PRIVATE 133 FUTEX_WAKE_OP_PRIVATE
            134 FUTEX_LOCK_PI_PRIVATE 135 FUTEX_UNLOCK_PI_PRIVATE 136 FUTEX_TRYLOCK_PI_PRIVATE 137 FUTEX_WAIT_BITSET_PRIVATE
            138 FUTEX_WAKE_BITSET_PRIVATE 393 FUTEX_WAIT_BITSET_PRIVATE_REALTIME;
        FCNTL "fcntl commands": 0 F_DUPFD 1 F_GETFD 2 F_SETFD 3 F_GETFL 4 F_SETFL 5 F_GETLK 6 F_SETLK 7 F_SETLKW 8 F_SETOWN 9 F_GETOWN 10 F_SETSIG
            11 F_GETSIG 15 F_SETOWN_EX 16 F_GETOWN_EX 36 F_OFD_GETLK 37 F_OFD_SETLK 38 F_OFD_SETLKW 1024 F_SETLEASE 1025 F_GETLEASE 1026 F_NOTIFY
            1030 F_DUPFD_CLOEXEC 1031 F_SETPIPE_SZ 1032 F_GETPIPE_SZ 1033 F_ADD_SEALS 1034 F_GET_SEALS;
        FLOCK "flock operations": 1 LOCK_SH 2 LOCK_EX 4 LOCK_NB 8 LOCK_UN;
        IOCTL "ioctl commands": 0x5401 TCGETS 0x5402 TCSETS 0x5403 TCSETSW 0x5404 TCSETSF 0x5409 TCSBRK 0x540a TCXONC 0x540b TCFLSH 0x540e TIOCSCTTY
            0x540f TIOCGPGRP 0x5410 TIOCSPGRP 0x5411 TIOCOUTQ 0x5412 TIOCSTI 0x5413 TIOCGWINSZ 0x5414 TIOCSWINSZ 0x541b FIONREAD 0x5420 TIOCPKT
            0x5421 FIONBIO 0x5422 TIOCNOTTY 0x5429 TIOCGSID 0x5450 FIONCLEX 0x5451 FIOCLEX 0x5452 FIOASYNC 0x80045430 TIOCGPTN 0x40045431 TIOCSPTLCK
            0x40049409 FICLONE;
        FALLOC "fallocate modes": 1 FALLOC_FL_KEEP_SIZE 2 FALLOC_FL_PUNCH_HOLE 8 FALLOC_FL_COLLAPSE_RANGE 0x10 FALLOC_FL_ZERO_RANGE 0x20 FALLOC_FL_INSERT_RANGE
            0x40 FALLOC_FL_UNSHARE_RANGE;
        FADVISE "file advice": 0 POSIX_FADV_NORMAL 1 POSIX_FADV_RANDOM 2 POSIX_FADV_SEQUENTIAL 3 POSIX_FADV_WILLNEED 4 POSIX_FADV_DONTNEED 5 POSIX_FADV_NOREUSE;
        RENAME "rename flags": 1 RENAME_NOREPLACE 2 RENAME_EXCHANGE 4 RENAME_WHITEOUT;
        XATTR "setxattr flags": 1 XATTR_CREATE 2 XATTR_REPLACE;
        MEMFD "memfd flags": 1 MFD_CLOEXEC 2 MFD_ALLOW_SEALING 4 MFD_HUGETLB 8 MFD_NOEXEC_SEAL 0x10 MFD_EXEC;
        MOUNT "mount flags": 1 MS_RDONLY 2 MS_NOSUID 4 MS_NODEV 8 MS_NOEXEC 0x20 MS_REMOUNT 0x400 MS_NOATIME 0x1000 MS_BIND 0x2000 MS_MOVE 0x4000 MS_REC
            0x8000 MS_SILENT 0x20000 MS_UNBINDABLE 0x40000 MS_PRIVATE 0x80000 MS_SLAVE 0x100000 MS_SHARED 0x200000 MS_RELATIME 0x1000000 MS_STRICTATIME;
        UMOUNT "umount flags": 1 MNT_FORCE 2 MNT_DETACH 4 MNT_EXPIRE 8 UMOUNT_NOFOLLOW;
        RLIMIT "limits": 0 RLIMIT_CPU 1 RLIMIT_FSIZE 2 RLIMIT_DATA 3 RLIMIT_STACK 4 RLIMIT_CORE 5 RLIMIT_RSS 6 RLIMIT_NPROC 7 RLIMIT_NOFILE 8 RLIMIT_MEMLOCK
            9 RLIMIT_AS 10 RLIMIT_LOCKS 11 RLIMIT_SIGPENDING 12 RLIMIT_MSGQUEUE 13 RLIMIT_NICE 14 RLIMIT_RTPRIO 15 RLIMIT_RTTIME;
        PRIO "whose priority": 0 PRIO_PROCESS 1 PRIO_PGRP 2 PRIO_USER;
        POLICY "scheduling policies": 0 SCHED_OTHER 1 SCHED_FIFO 2 SCHED_RR 3 SCHED_BATCH 5 SCHED_IDLE 6 SCHED_DEADLINE;
        PRCTL "prctl options": 1 PR_SET_PDEATHSIG 2 PR_GET_PDEATHSIG 3 PR_GET_DUMPABLE 4 PR_SET_DUMPABLE 7 PR_GET_KEEPCAPS 8 PR_SET_KEEPCAPS 15 PR_SET_NAME
            16 PR_GET_NAME 21 PR_GET_SECCOMP 22 PR_SET_SECCOMP 23 PR_CAPBSET_READ 24 PR_CAPBSET_DROP 27 PR_SET_SECUREBITS 28 PR_GET_SECUREBITS
            29 PR_SET_TIMERSLACK 30 PR_GET_TIMERSLACK 35 PR_SET_MM 36 PR_SET_CHILD_SUBREAPER 37 PR_GET_CHILD_SUBREAPER 38 PR_SET_NO_NEW_PRIVS
            39 PR_GET_NO_NEW_PRIVS 41 PR_SET_THP_DISABLE 42 PR_GET_THP_DISABLE 47 PR_CAP_AMBIENT 0x53564d41 PR_SET_VMA 0x59616d61 PR_SET_PTRACER;
        ARCH "arch_prctl codes": 0x1001 ARCH_SET_GS 0x1002 ARCH_SET_FS 0x1003 ARCH_GET_FS 0x1004 ARCH_GET_GS;
        GRND "getrandom flags": 1 GRND_NONBLOCK 2 GRND_RANDOM 4 GRND_INSECURE;
        MEMBARRIER "membarrier commands": 0 MEMBARRIER_CMD_QUERY 1 MEMBARRIER_CMD_GLOBAL 2 MEMBARRIER_CMD_GLOBAL_EXPEDITED 4 MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
            8 MEMBARRIER_CMD_PRIVATE_EXPEDITED 16 MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
        SPLICE "splice flags": 1 SPLICE_F_MOVE 2 SPLICE_F_NONBLOCK 4 SPLICE_F_MORE 8 SPLICE_F_GIFT;
        RWF "read and write flags": 1 RWF_HIPRI 2 RWF_DSYNC 4 RWF_SYNC 8 RWF_NOWAIT 0x10 RWF_APPEND;
        CLOSE_RANGE "close_range flags": 2 CLOSE_RANGE_UNSHARE 4 CLOSE_RANGE_CLOEXEC;
        SYNC_RANGE "sync_file_range flags": 1 SYNC_FILE_RANGE_WAIT_BEFORE 2 SYNC_FILE_RANGE_WRITE 4 SYNC_FILE_RANGE_WAIT_AFTER;
        PIDFD "pidfd flags": 0x800 PIDFD_NONBLOCK 0x80 PIDFD_THREAD;
        INOTIFY "inotify events": 1 IN_ACCESS 2 IN_MODIFY 4 IN_ATTRIB 8 IN_CLOSE_WRITE 0x10 IN_CLOSE_NOWRITE 0x20 IN_OPEN 0x40 IN_MOVED_FROM 0x80 IN_MOVED_TO
            0x100 IN_CREATE 0x200 IN_DELETE 0x400 IN_DELETE_SELF 0x800 IN_MOVE_SELF 0x1000000 IN_ONLYDIR 0x2000000 IN_DONT_FOLLOW 0x4000000 IN_EXCL_UNLINK
            0x10000000 IN_MASK_CREATE 0x20000000 IN_MASK_ADD 0x80000000 IN_ONESHOT;
        IPC "ipc flags": 0x200 IPC_CREAT 0x400 IPC_EXCL 0x800 IPC_NOWAIT 0x1000 SHM_RDONLY 0x2000 SHM_RND 0x4000 SHM_REMAP;
        IPC_COMMAND "ipc commands": 0 IPC_RMID 1 IPC_SET 2 IPC_STAT 3 IPC_INFO 11 GETPID 12 GETVAL 13 GETALL 14 GETNCNT 15 GETZCNT 16 SETVAL 17 SETALL;
        PTRACE "ptrace requests": 0 PTRACE_TRACEME 1 PTRACE_PEEKTEXT 2 PTRACE_PEEKDATA 3 PTRACE_PEEKUSER 4 PTRACE_POKETEXT 5 PTRACE_POKEDATA 6 PTRACE_POKEUSER
            7 PTRACE_CONT 8 PTRACE_KILL 9 PTRACE_SINGLESTEP 12 PTRACE_GETREGS 13 PTRACE_SETREGS 16 PTRACE_ATTACH 17 PTRACE_DETACH 24 PTRACE_SYSCALL
            0x4200 PTRACE_SETOPTIONS 0x4201 PTRACE_GETEVENTMSG 0x4202 PTRACE_GETSIGINFO 0x4204 PTRACE_GETREGSET 0x4205 PTRACE_SETREGSET 0x4206 PTRACE_SEIZE
            0x4207 PTRACE_INTERRUPT 0x4208 PTRACE_LISTEN 0x420e PTRACE_GET_SYSCALL_INFO;
        SECCOMP "seccomp operations": 0 SECCOMP_SET_MODE_STRICT 1 SECCOMP_SET_MODE_FILTER 2 SECCOMP_GET_ACTION_AVAIL 3 SECCOMP_GET_NOTIF_SIZES;
    }
}
