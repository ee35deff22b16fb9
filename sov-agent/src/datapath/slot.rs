//! The slot that holds an image: a one-value array, mapped, filled, and published by one pointer write.

use std::{io, os::fd::AsRawFd as _, ptr::NonNull};

use aya::maps::{Array, ArrayOfMaps, IterableMap as _, MapData, MapError};
use sov_common::image::{MAGIC, SLOT_BYTES, SLOT_WORDS, header};

use super::DatapathError;

const MMAPABLE: u32 = 1 << 10;
const MAP: &str = "SOV_IMAGE";

/// Stands for the value's type: the map is never read or written through it, only mapped.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Slot([u32; SLOT_WORDS as usize]);

// SAFETY: plain integers without padding.
unsafe impl aya::Pod for Slot {}

type SlotMap = Array<MapData, Slot>;

/// Fills a fresh slot with `words` and makes it the live one. Returns after every packet that was
/// judged by the old image is through (the kernel waits for RCU); the old slot is freed by then.
pub(super) fn publish(
    images: &mut ArrayOfMaps<&mut MapData, SlotMapAny>,
    words: &[u32],
) -> Result<(), DatapathError> {
    let map_error = |source| DatapathError::Map { map: MAP, source };
    let slot: SlotMap = Array::create(1, MMAPABLE).map_err(map_error)?;
    let mapping = Mapping::new(slot.map(), true)
        .map_err(|source| DatapathError::System { what: "mapping an image slot".into(), source })?;
    mapping.write(words);
    drop(mapping);
    images.set(0, slot.map().fd(), 0).map_err(map_error)
}

/// The outer map seen as holding plain maps: the size of a slot is checked by the kernel.
pub(super) type SlotMapAny = aya::maps::MapFd;

/// What the header of the live image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveImage {
    pub generation: u32,
    /// Unix seconds minus CLOCK_BOOTTIME seconds when it was made live.
    pub epoch: u32,
    pub policy_hash: [u8; 32],
    pub content_hash: [u8; 32],
    /// Words in use.
    pub words: u32,
}

/// Reads the header of the live image; `None` before the first one.
pub(super) fn live(
    images: &ArrayOfMaps<&MapData, MapData>,
) -> Result<Option<LiveImage>, DatapathError> {
    let map = match images.get(&0, 0) {
        Ok(map) => map,
        Err(MapError::KeyNotFound) => return Ok(None),
        Err(source) => return Err(DatapathError::Map { map: MAP, source }),
    };
    let mapping = Mapping::new(&map, false).map_err(|source| DatapathError::System {
        what: "mapping the live image".into(),
        source,
    })?;
    let hash = |at: u32| {
        let mut bytes = [0; 32];
        for (i, out) in bytes.chunks_exact_mut(4).enumerate() {
            out.copy_from_slice(&mapping.word(at + i as u32).to_le_bytes());
        }
        bytes
    };
    if mapping.word(header::MAGIC) != MAGIC {
        return Ok(None);
    }
    Ok(Some(LiveImage {
        generation: mapping.word(header::GENERATION),
        epoch: mapping.word(header::EPOCH),
        policy_hash: hash(header::POLICY_HASH),
        content_hash: hash(header::CONTENT_HASH),
        words: mapping.word(header::WORDS),
    }))
}

/// A slot in this process's memory.
struct Mapping(NonNull<u32>);

impl Mapping {
    fn new(map: &MapData, write: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let fd = std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd();
        // SAFETY: a new shared mapping of a descriptor that outlives the call; the kernel chooses where.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), SLOT_BYTES, protection, libc::MAP_SHARED, fd, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast()).map(Self).ok_or_else(io::Error::last_os_error)
    }

    /// Only the words in use are written: the rest of a fresh slot is zero.
    fn write(&self, words: &[u32]) {
        let count = words.len().min(SLOT_WORDS as usize);
        // SAFETY: the mapping is SLOT_WORDS long, writable, and nobody else knows it yet.
        unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), self.0.as_ptr(), count) };
    }

    fn word(&self, index: u32) -> u32 {
        // SAFETY: header indexes are far below SLOT_WORDS; the kernel does not write here.
        unsafe { self.0.add(index as usize).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with the same size.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SLOT_BYTES) };
    }
}
