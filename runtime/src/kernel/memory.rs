//! The values of an array map as memory of this process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering, fence};

/// A mapped array; what is written here, programs read at once.
#[derive(Debug)]
pub(super) struct Memory {
    base: *mut u8,
    bytes: usize,
}

impl Memory {
    /// Maps an array that was made with `BPF_F_MMAPABLE` and whose values have so many bytes together.
    pub(super) fn new(map: BorrowedFd, bytes: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel likes touches no memory in use.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), bytes })
    }

    /// Writes 16 bits at a time, after all that was written before; `None` for odd places and beyond the end.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        let end = offset.checked_add(bytes.len())?;
        let even = offset.is_multiple_of(2) && bytes.len().is_multiple_of(2);
        if end > self.bytes || !even {
            return None;
        }
        fence(Ordering::Release);
        for (at, pair) in (offset..).step_by(2).zip(bytes.as_chunks().0) {
            // SAFETY: `at` and `at + 1` lie before `end`, so in the mapping, which lives as long as `self`; the mapping begins
            // at a page and `at` is even, so the place is aligned; this process writes there by atomics only.
            let place = unsafe { AtomicU16::from_ptr(self.base.add(at).cast()) };
            place.store(u16::from_ne_bytes(*pair), Ordering::Relaxed);
        }
        Some(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped; references to it do not outlive `write`.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}
