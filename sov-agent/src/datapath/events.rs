//! The ring buffer of first packets, and the kernel-side log.
//!
//! Reading and giving back are two steps: what was read stays in the kernel's buffer until its records
//! are on disk. An agent that is killed in between loses nothing; the next one reads it again.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::{Ebpf, maps::MapData};
use aya_log::EbpfLogger;
use sov_common::abi::Event;

use super::DatapathError;

const MAP: &str = "SOV_EVENTS";
/// An item that is still being written.
const BUSY: u32 = 1 << 31;
/// An item that was given up.
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;

/// Reads events. The kernel never waits for it: what it does not read in time is counted as lost.
pub struct EventReader {
    /// One page: how far the reader is. Ours to write.
    consumer: Pages,
    /// One page: how far the kernel is; then the data, twice, so that no item is cut at the end.
    producer: Pages,
    page: usize,
    /// Bytes of data; a power of two.
    size: u64,
    /// How far was read; at least what was given back.
    read: u64,
    map_id: u32,
    _map: MapData,
}

impl EventReader {
    pub(super) fn new(map: MapData) -> Result<Self, DatapathError> {
        let error = |source| DatapathError::System { what: format!("map {MAP}"), source };
        let info = map.info().map_err(super::loader::map_error(MAP))?;
        let (size, map_id) = (u64::from(info.max_entries()), info.id());
        // SAFETY: a plain question.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let fd = map.fd().as_fd().as_raw_fd();
        let consumer = Pages::new(fd, page, 0, true).map_err(error)?;
        let producer = Pages::new(fd, page + 2 * size as usize, page, false).map_err(error)?;
        let mut reader = Self { consumer, producer, page, size, read: 0, map_id, _map: map };
        reader.read = reader.given_back().load(Ordering::Acquire);
        Ok(reader)
    }

    /// The next event, `None` when there is none at the moment. Never blocks; the kernel sends no
    /// wake-ups, so poll a few times per second. The kernel gets the room back with [`Self::commit`].
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if self.read >= self.produced() {
                return None;
            }
            let at = self.page + (self.read & (self.size - 1)) as usize;
            // SAFETY: items are 8-byte aligned and lie inside the data; the kernel writes this word last.
            let word = unsafe { self.producer.at::<AtomicU32>(at) }.load(Ordering::Acquire);
            if word & BUSY != 0 {
                return None;
            }
            let length = word & !DISCARD;
            self.read += (u64::from(length) + HEADER).next_multiple_of(8);
            if word & DISCARD != 0 {
                continue;
            }
            if length as usize == size_of::<Event>() {
                // SAFETY: the length matches, the data are mapped twice in a row, and every bit pattern
                // is a valid Event.
                return Some(unsafe { *self.producer.at::<Event>(at + HEADER as usize) });
            }
            log::warn!("ring buffer item of {length} bytes, expected {}", size_of::<Event>());
        }
    }

    /// Where the next event starts, in bytes since the buffer was made.
    pub fn position(&self) -> u64 {
        self.read
    }

    /// Gives back the room of all events that were read.
    pub fn commit(&self) {
        self.given_back().store(self.read, Ordering::Release);
    }

    /// Goes on at `position` when that lies ahead and inside what the kernel has written.
    pub fn resume(&mut self, position: u64) {
        if position > self.read && position <= self.produced() {
            self.read = position;
            self.commit();
        }
    }

    /// Kernel id of the map: positions of another map mean nothing here.
    pub fn map_id(&self) -> u32 {
        self.map_id
    }

    fn given_back(&self) -> &AtomicU64 {
        // SAFETY: the page starts with the reader's position.
        unsafe { self.consumer.at(0) }
    }

    fn produced(&self) -> u64 {
        // SAFETY: the page starts with the kernel's position.
        unsafe { self.producer.at::<AtomicU64>(0) }.load(Ordering::Acquire)
    }
}

/// A part of the map in this process's memory.
struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory that is reached through shared references with atomics, or read only.
unsafe impl Send for Pages {}

impl Pages {
    fn new(fd: i32, bytes: usize, offset: usize, write: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new shared mapping; the kernel chooses where.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                fd,
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(at.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, bytes })
    }

    /// # Safety
    /// A `T` lies at `offset`, aligned, inside the mapping.
    unsafe fn at<T>(&self, offset: usize) -> &T {
        debug_assert!(offset + size_of::<T>() <= self.bytes);
        // SAFETY: the caller's promise.
        unsafe { self.start.add(offset).cast::<T>().as_ref() }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: made by `new` with the same size.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Messages of the kernel programs, for debugging. Exists only when a level was chosen at load.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    pub(super) fn new(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(ebpf).inspect_err(|e| log::warn!("kernel-side log: {e}")).ok().map(Self)
    }

    /// Passes waiting messages to the logger.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
