//! Where the bytes of an image come from.

use crate::{Error, Result};

/// Random access to the bytes of an image. In the guest it is the pmem region, on the host a slice or a file.
pub trait Image {
    /// Length in bytes. It may change only downwards while mounted; reads are checked each time.
    fn len(&self) -> u64;

    /// True when there is not a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills all of `buf` from byte `offset` on, or fails with [`Error::Io`] if that leaves the image.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

impl Image for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).map_err(|_| Error::Io)?;
        let end = start.checked_add(buf.len()).ok_or(Error::Io)?;
        buf.copy_from_slice(self.get(start..end).ok_or(Error::Io)?);
        Ok(())
    }
}

impl<T: Image + ?Sized> Image for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }
}
