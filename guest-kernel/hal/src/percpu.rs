//! One value for each CPU.

use crate::cpu;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// A `T` for each configured CPU. Values of other CPUs can be read, so a `T` that changes is made of atomics
/// or locks.
pub struct PerCpu<T> {
    values: Box<[Padded<T>]>,
}

/// Own cache lines (two: the adjacent-line prefetcher works in pairs), so that CPUs do not disturb each other.
#[repr(align(128))]
struct Padded<T>(T);

impl<T> PerCpu<T> {
    /// Makes the value of each of the [`cpu::count`] CPUs.
    pub fn new(init: impl FnMut(usize) -> T) -> Self {
        let values: Vec<Padded<T>> = (0..cpu::count()).map(init).map(Padded).collect();
        Self { values: values.into_boxed_slice() }
    }

    /// This CPU's value. Stays the value of the CPU that asked, also after the thread has moved to another.
    pub fn get(&self) -> &T {
        self.of(cpu::id())
    }

    /// The value of one CPU.
    ///
    /// # Panics
    /// If `cpu` is not below [`cpu::count`].
    pub fn of(&self, cpu: usize) -> &T {
        &self.values[cpu].0
    }

    /// All values, in CPU order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|p| &p.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for PerCpu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
