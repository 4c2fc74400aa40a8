//! Typed arguments: what a raw register means, decoded once, and how strace prints it.

use core::{fmt, marker::PhantomData};

use alloc::vec::Vec;
use ringfence_hal as hal;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Result};

use super::ArgKind;

/// A system call argument.
pub trait Arg: Sized {
    /// How strace prints it.
    const KIND: ArgKind;
    /// Decodes the register.
    fn from_raw(raw: u64) -> Self;
}

macro_rules! int_args {
    ($($ty:ty => $kind:ident),*) => {$(
        impl Arg for $ty {
            const KIND: ArgKind = ArgKind::$kind;
            #[inline(always)]
            fn from_raw(raw: u64) -> Self {
                raw as $ty
            }
        }
    )*};
}

int_args!(i32 => Int, i64 => Int, u32 => Uint, u64 => Hex, usize => Uint, isize => Int);

/// A file descriptor number; negative ones are never open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fd(pub i32);

impl Fd {
    /// `AT_FDCWD`: the working directory, where a directory descriptor is asked for.
    pub const CWD: Fd = Fd(-100);
}

impl Arg for Fd {
    const KIND: ArgKind = ArgKind::Fd;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        Fd(raw as i32)
    }
}

/// A signal number as given; not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigNum(pub i32);

impl Arg for SigNum {
    const KIND: ArgKind = ArgKind::Signal;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        SigNum(raw as i32)
    }
}

/// A file mode (`mode_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Arg for Mode {
    const KIND: ArgKind = ArgKind::Mode;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        Mode(raw as u32)
    }
}

/// An address in user memory without a type: buffers, lengths of which another argument gives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// Whether it is NULL.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `n` bytes on; wraps, and a wrapped address faults when it is used.
    pub fn offset(self, n: u64) -> UserAddr {
        UserAddr(self.0.wrapping_add(n))
    }
}

impl fmt::Debug for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Arg for UserAddr {
    const KIND: ArgKind = ArgKind::Pointer;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        UserAddr(raw)
    }
}

/// A pointer to a `T` (or an array of them) in user memory.
pub struct UserPtr<T>(pub u64, PhantomData<fn() -> T>);

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// A pointer to `addr`.
    pub const fn new(addr: u64) -> Self {
        UserPtr(addr, PhantomData)
    }

    /// Whether it is NULL.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `None` if it is NULL.
    pub fn non_null(self) -> Option<Self> {
        (!self.is_null()).then_some(self)
    }

    /// The pointer to element `i`; wraps like `UserAddr::offset`.
    pub fn index(self, i: usize) -> Self {
        Self::new(self.0.wrapping_add((i as u64).wrapping_mul(size_of::<T>() as u64)))
    }

    /// The same address seen as another type.
    pub fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.0)
    }
}

impl<T: FromBytes + IntoBytes + Immutable> UserPtr<T> {
    /// Copies the value in; `EFAULT` if it is not readable.
    pub fn read(self) -> Result<T> {
        let mut value = T::new_zeroed();
        hal::user::copy_in(value.as_mut_bytes(), self.0)?;
        Ok(value)
    }

    /// Copies `n` values in, which the caller has bounded.
    pub fn read_vec(self, n: usize) -> Result<Vec<T>> {
        let mut values = Vec::new();
        values.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
        for i in 0..n {
            values.push(self.index(i).read()?);
        }
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Copies the value out; `EFAULT` if it is not writable.
    pub fn write(self, value: &T) -> Result<()> {
        Ok(hal::user::copy_out(self.0, value.as_bytes())?)
    }

    /// Copies the value out unless the pointer is NULL.
    pub fn write_opt(self, value: &T) -> Result<()> {
        if self.is_null() { Ok(()) } else { self.write(value) }
    }
}

impl<T> fmt::Debug for UserPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<T> Arg for UserPtr<T> {
    const KIND: ArgKind = ArgKind::Pointer;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        UserPtr::new(raw)
    }
}

/// A NUL-terminated string in user memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserStr(pub u64);

impl UserStr {
    /// Whether it is NULL.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Copies the string in without its NUL. A string with no NUL within `max` bytes (NUL included) is
    /// `too_long`: `ENAMETOOLONG` for paths, `E2BIG` for program arguments.
    pub fn read(self, max: usize, too_long: Errno) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut chunk = [0u8; 256];
        loop {
            let want = chunk.len().min(max - out.len());
            if want == 0 {
                return Err(too_long);
            }
            let dst = chunk.get_mut(..want).ok_or(Errno::EFAULT)?;
            let n = hal::user::copy_in_str(dst, self.0.wrapping_add(out.len() as u64))?;
            out.try_reserve(n).map_err(|_| Errno::ENOMEM)?;
            out.extend_from_slice(chunk.get(..n).unwrap_or_default());
            if n < want {
                return Ok(out);
            }
        }
    }
}

impl Arg for UserStr {
    const KIND: ArgKind = ArgKind::Str;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        UserStr(raw)
    }
}

/// A NULL-terminated vector of strings in user memory (`argv`, `envp`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserStrVec(pub u64);

impl Arg for UserStrVec {
    const KIND: ArgKind = ArgKind::StrVec;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        UserStrVec(raw)
    }
}

/// Reads a structure that grows with kernel versions (`clone_args`, `open_how`): a shorter one is extended
/// with zeros, a longer one must have nothing but zeros beyond what is known, else `E2BIG`.
pub fn read_versioned<T: FromBytes + IntoBytes + Immutable>(addr: u64, size: usize) -> Result<T> {
    let mut value = T::new_zeroed();
    let known = size_of::<T>();
    if size > hal::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let bytes = value.as_mut_bytes();
    hal::user::copy_in(bytes.get_mut(..size.min(known)).unwrap_or_default(), addr)?;
    let mut at = known;
    while at < size {
        let mut byte = [0u8; 1];
        hal::user::copy_in(&mut byte, addr.wrapping_add(at as u64))?;
        if byte != [0] {
            return Err(Errno::E2BIG);
        }
        at += 1;
    }
    Ok(value)
}
