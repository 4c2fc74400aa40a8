//! musl's allocator without `mremap`.
//!
//! musl resizes a block that has mappings of its own (128 KiB and more) by `mremap`. That call also moves and overlays what
//! others have mapped, so it is not among those that the VMM's threads may make (seccomp/README.md), and no argument
//! of it tells the one use from the other. A large block is allocated anew and copied instead; small ones are musl's business.

use std::alloc::{GlobalAlloc, Layout, System};

/// Below musl's MMAP_THRESHOLD (131052): a block of this size is never one with mappings of its own.
const SURELY_SMALL: usize = 64 << 10;

/// The allocator of the command and of the VMM.
pub struct WithoutMremap;

#[global_allocator]
static ALLOCATOR: WithoutMremap = WithoutMremap;

// SAFETY: each function is `System`'s, or the trait's own by means of the others, with the arguments as they came.
unsafe impl GlobalAlloc for WithoutMremap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size < SURELY_SMALL {
            // SAFETY: as above.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: `size` is not 0, and rounded up to the alignment it does not overflow: the caller's promise.
        let new = unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both blocks have that many bytes, and one is new; the old one is not used after this.
            unsafe {
                std::ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                System.dealloc(at, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_keep_their_bytes() {
        let mut block: Vec<u8> = vec![1, 2, 3];
        for power in 4..24 {
            block.resize(1 << power, power);
            assert_eq!((block[..3].to_vec(), block[(1 << power) - 1]), (vec![1, 2, 3], power));
        }
        block.truncate(100 << 10);
        block.shrink_to_fit();
        assert_eq!((block[2], block[100_000]), (3, 17));
    }
}
