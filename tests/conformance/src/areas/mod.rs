//! The tests, a file a subject. A new file is added to the list here.

use crate::test::Test;

macro_rules! areas {
    ($($name:ident)*) => {
        $(mod $name;)*
        const ALL: &[&[Test]] = &[$($name::TESTS),*];
    };
}

areas! {
    clone
    futex
    memory
    open
    pipe
    process
    ptrace
    rename
    seccomp
    signal
}

/// Every test, in order.
pub fn all() -> impl Iterator<Item = &'static Test> {
    ALL.iter().flat_map(|tests| tests.iter())
}
