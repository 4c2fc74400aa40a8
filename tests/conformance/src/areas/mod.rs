//! The tests, a file a subject. A new file is added to the list here.

use crate::kinds::is_there;
use crate::test::Test;

macro_rules! areas {
    ($($name:ident)*) => {
        $(mod $name;)*
        const ALL: &[&[Test]] = &[$($name::TESTS),*];
    };
}

areas! {
    capabilities
    clone
    core
    descriptors
    directories
    dnotify
    fcntl
    files
    cputime
    debug
    epoll
    futex
    huge
    inet
    lookup
    mapping
    memory
    mountfd
    mounts
    open
    pipe
    policy
    process
    ptrace
    recent
    rename
    rseq
    restart
    sched
    seccomp
    signal
    terminal
    timers
    tmpfs
    unix
}

mod efault;

/// What the program says of itself when a test executes it again.
pub fn probe() {
    capabilities::say_capabilities();
}

/// Every test, in order. One that is about a call the sandbox's kernel does not have yet is not tried.
pub fn all() -> impl Iterator<Item = &'static Test> {
    let ours = ALL.iter().flat_map(|tests| tests.iter());
    ours.filter(|test| test.calls.iter().all(|call| is_there(call))).chain(efault::tests())
}
