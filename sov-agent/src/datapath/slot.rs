//! The slot that holds an image: a one-value array, mapped, filled, and published by one pointer write.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    ptr::NonNull,
};

use aya::maps::{ArrayOfMaps, MapData, MapError, MapFd};
use sov_common::image::{MAGIC, flags, header, slot_words};

use super::{DatapathError, sys};

const MAP: &str = "SOV_IMAGE";

/// The outer map, seen as holding maps of any kind: the kernel checks what is put in.
type Images<'a> = ArrayOfMaps<&'a mut MapData, MapFd>;

/// Makes a pinned outer map for slots of `words` words.
pub(super) fn create(words: u32, path: &Path) -> Result<(), DatapathError> {
    let made = sys::create_slot(words * 4).and_then(|slot| {
        let images = sys::create_array_of_slots(slot.as_fd())?;
        sys::pin(images.as_fd(), path)
    });
    made.map_err(|source| DatapathError::System {
        what: format!("an image slot of {} KiB at {}", words / 256, path.display()),
        source,
    })
}

/// What programs are loaded for: constants that the verifier knows. A larger one takes in all that a
/// smaller one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Build {
    /// Words of the image slot.
    pub(super) slot: u32,
    /// Selector kinds, `flags::SELECTORS`.
    pub(super) kinds: u32,
}

impl Build {
    /// The smallest that takes in this one and an image; `None`: no slot is that large.
    pub(super) fn with(self, image: &[u32]) -> Option<Self> {
        let flags = image.get(header::FLAGS as usize).copied().unwrap_or(0);
        Some(Self {
            slot: self.slot.max(slot_words(image.len())?),
            kinds: self.kinds | flags & flags::SELECTORS,
        })
    }
}

/// What the programs behind a pinned outer map were loaded for. An outer map without an image was never
/// judged by: it is removed, and counts as none.
pub(super) fn pinned(path: &Path) -> Result<Option<Build>, DatapathError> {
    let map_error = |source| DatapathError::Map { map: MAP, source };
    if !path.exists() {
        return Ok(None);
    }
    let map = aya::maps::Map::ArrayOfMaps(MapData::from_pin(path).map_err(map_error)?);
    let images = ArrayOfMaps::<_, MapData>::try_from(&map).map_err(map_error)?;
    match images.get(&0, 0) {
        Ok(map) => {
            let slot = map.info().map_err(map_error)?.value_size() / 4;
            let kinds = header_of(&map)?.word(header::KINDS) & flags::SELECTORS;
            Ok(Some(Build { slot, kinds }))
        }
        Err(MapError::KeyNotFound) => {
            fs::remove_file(path)
                .map_err(|source| DatapathError::Pin { path: path.into(), source })?;
            Ok(None)
        }
        Err(source) => Err(map_error(source)),
    }
}

/// Fills a fresh slot with an image and makes it the live one. Returns after every packet
/// that was judged by the old image is through (the kernel waits for RCU); the old slot is freed by then.
pub(super) fn publish(
    images: &mut Images<'_>,
    build: Build,
    words: &[u32],
) -> Result<(), DatapathError> {
    let size = build.slot;
    let map_error = |source| DatapathError::Map { map: MAP, source };
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| DatapathError::System { what, source }
    };
    let slot = sys::create_slot(size * 4).map_err(failed("making an image slot"))?;
    let slot = MapData::from_fd(slot).map_err(map_error)?;
    let mapping = Mapping::new(&slot, size, true).map_err(failed("mapping an image slot"))?;
    mapping.write(words);
    mapping.set(header::KINDS, build.kinds);
    drop(mapping);
    images.set(0, slot.fd(), 0).map_err(map_error)
}

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
    let mapping = header_of(&map)?;
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

fn header_of(slot: &MapData) -> Result<Mapping, DatapathError> {
    let failed = |source| DatapathError::System { what: "mapping the live image".into(), source };
    Mapping::new(slot, header::END, false).map_err(failed)
}

/// The first `words` of a slot in this process's memory.
struct Mapping {
    at: NonNull<u32>,
    words: usize,
}

impl Mapping {
    fn new(map: &MapData, words: u32, write: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let fd = map.fd().as_fd().as_raw_fd();
        let words = words as usize;
        // SAFETY: a new shared mapping of a descriptor that outlives the call; the kernel chooses where.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), words * 4, protection, libc::MAP_SHARED, fd, 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { at, words })
    }

    /// Only the words in use are written: the rest of a fresh slot is zero.
    fn write(&self, words: &[u32]) {
        let count = words.len().min(self.words);
        // SAFETY: the mapping is that long, writable, and nobody else knows it yet.
        unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), self.at.as_ptr(), count) };
    }

    /// Only for a writable mapping.
    fn set(&self, index: u32, value: u32) {
        assert!((index as usize) < self.words);
        // SAFETY: inside the mapping, which nobody else knows yet.
        unsafe { self.at.add(index as usize).write(value) };
    }

    /// 0 behind the end.
    fn word(&self, index: u32) -> u32 {
        if index as usize >= self.words {
            return 0;
        }
        // SAFETY: inside the mapping; the kernel does not write here.
        unsafe { self.at.add(index as usize).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with the same size.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.words * 4) };
    }
}
