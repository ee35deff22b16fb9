//! How far the journal is: what of every flow is on record, and up to where events were read. Kept in a
//! file, so that an agent that was killed is followed by one that tells nothing twice.
//!
//! Before records go to the journal, a mark per record goes here, with the record's sequence number. The
//! next agent believes the marks up to the journal's last record and no others: wherever the kill hit,
//! both files agree. Power failures need no care: the kernel's tables are gone then too, and the file
//! names the boot and the map that it is about.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sov_common::abi::{FlowKey, SocketOwner};

use super::write_atomically;

const MAGIC: [u8; 8] = *b"SOVTOLD1";
const HEADER: usize = 48;
const MARK: usize = 88;
/// A file of this size is written anew with what still holds.
const LIMIT: u64 = 32 << 20;

/// What was said about a flow already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// CLOCK_BOOTTIME ns at which the kernel's entry was made: another entry starts from zero. 0 = no
    /// entry was seen yet.
    pub(super) first_ns: u64,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// CLOCK_BOOTTIME ns of the last record.
    pub(super) at: u64,
    pub(super) owner: Option<SocketOwner>,
    /// The last look through the flow table that found it.
    pub(super) sweep: u64,
}

/// What a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// An event; the next one starts at this position of the ring buffer.
    Event(u64),
    /// The flow's counts are on record up to these.
    Flow { key: FlowKey, first_ns: u64, packets: u64, bytes: u64 },
}

/// What the file said at the start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Restored {
    /// Events before this position of the ring buffer are on record.
    pub(super) position: u64,
    pub(super) told: HashMap<FlowKey, Told>,
}

/// The file.
pub(super) struct Progress {
    path: PathBuf,
    header: [u8; HEADER],
    file: Option<File>,
    bytes: u64,
}

impl Progress {
    /// `boot` and `map` say which kernel tables the file is about; `next` is the journal's next sequence
    /// number.
    pub(super) fn open(path: PathBuf, boot: &str, map: u32, next: u64) -> (Self, Restored) {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&map.to_le_bytes());
        for (to, from) in header[12..].iter_mut().zip(boot.bytes()) {
            *to = from;
        }
        let restored = match fs::read(&path) {
            Ok(bytes) if bytes.get(..HEADER) == Some(&header[..]) => read(&bytes[HEADER..], next),
            _ => Restored::default(),
        };
        let mut book = Self { path, header, file: None, bytes: 0 };
        // Marks beyond the journal's end must go: their numbers are given again.
        book.rewrite(&restored.told, restored.position);
        (book, restored)
    }

    /// Notes what the next records, numbered from `first`, stand for; before they are written.
    pub(super) fn announce(&mut self, first: u64, marks: &[Mark]) {
        let mut bytes = Vec::with_capacity(marks.len() * MARK);
        for (mark, sequence) in marks.iter().zip(first..) {
            encode(&mut bytes, sequence, mark);
        }
        let Some(file) = &mut self.file else { return };
        if let Err(e) = file.write_all(&bytes) {
            self.failed(&e);
            return;
        }
        self.bytes += bytes.len() as u64;
    }

    /// Large enough to be written anew.
    pub(super) fn is_due(&self) -> bool {
        self.file.is_none() || self.bytes > LIMIT
    }

    /// Writes the file anew. Only when every announced record is in the journal.
    pub(super) fn rewrite(&mut self, told: &HashMap<FlowKey, Told>, position: u64) {
        let mut bytes = self.header.to_vec();
        // Number 0: true whatever the journal holds.
        encode(&mut bytes, 0, &Mark::Event(position));
        for (key, told) in told.iter().filter(|(_, told)| told.packets != 0) {
            let Told { first_ns, packets, bytes: octets, .. } = *told;
            encode(&mut bytes, 0, &Mark::Flow { key: *key, first_ns, packets, bytes: octets });
        }
        self.bytes = bytes.len() as u64;
        let opened = write_atomically(&self.path, &bytes).and_then(|()| append(&self.path));
        match opened {
            Ok(file) => self.file = Some(file),
            Err(e) => self.failed(&e),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        // Half a mark may stand at the end: nothing more is added to this file.
        if self.file.take().is_some() || self.bytes != 0 {
            log::error!(
                "{}: {error}; if the agent is killed now, records may be written twice",
                self.path.display()
            );
        }
        self.bytes = 0;
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).mode(0o640).open(path)
}

fn encode(bytes: &mut Vec<u8>, sequence: u64, mark: &Mark) {
    let end = bytes.len() + MARK;
    bytes.extend(sequence.to_le_bytes());
    match mark {
        Mark::Event(position) => bytes.extend(position.to_le_bytes()),
        Mark::Flow { key, first_ns, packets, bytes: octets } => {
            bytes.extend(0u64.to_le_bytes());
            for number in [first_ns, packets, octets] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(key.src);
            bytes.extend(key.dst);
            bytes.extend(key.sport.to_le_bytes());
            bytes.extend(key.dport.to_le_bytes());
            bytes.extend([key.proto, key.tag, key.verdict, key.reason]);
            bytes.extend(key.ifindex.to_le_bytes());
            bytes.extend([key.hook, 0, 0, 0]);
        }
    }
    bytes.resize(end, 0);
}

/// Marks of records below `next`; a torn mark at the end is none.
fn read(bytes: &[u8], next: u64) -> Restored {
    let mut restored = Restored::default();
    for mark in bytes.chunks_exact(MARK) {
        let number = |at: usize| {
            mark.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let short = |at: usize| u16::from_le_bytes([mark[at], mark[at + 1]]);
        if number(0) >= next.max(1) {
            continue;
        }
        restored.position = restored.position.max(number(8));
        let first_ns = number(16);
        if first_ns == 0 {
            continue;
        }
        let (mut src, mut dst) = ([0; 16], [0; 16]);
        src.copy_from_slice(&mark[40..56]);
        dst.copy_from_slice(&mark[56..72]);
        let key = FlowKey {
            src,
            dst,
            sport: short(72),
            dport: short(74),
            proto: mark[76],
            tag: mark[77],
            verdict: mark[78],
            reason: mark[79],
            ifindex: u32::from_le_bytes([mark[80], mark[81], mark[82], mark[83]]),
            hook: mark[84],
            pad: [0; 3],
        };
        let told = Told { first_ns, packets: number(24), bytes: number(32), ..Told::default() };
        restored.told.insert(key, told);
    }
    restored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            src: [1; 16],
            dst: [2; 16],
            sport: port,
            dport: 443,
            proto: 6,
            tag: 3,
            verdict: 2,
            reason: 9,
            ifindex: 70_000,
            hook: 1,
            pad: [0; 3],
        }
    }

    fn flow(port: u16, packets: u64) -> Mark {
        Mark::Flow { key: key(port), first_ns: 5, packets, bytes: packets * 100 }
    }

    #[test]
    fn marks_hold_up_to_the_journals_last_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("told");
        let (mut book, restored) = Progress::open(path.clone(), "boot", 7, 1);
        assert_eq!(restored, Restored::default());
        book.announce(1, &[Mark::Event(152), flow(1, 10), flow(2, 20)]);
        book.announce(4, &[flow(1, 11), Mark::Event(304)]);
        drop(book);
        // A kill in the middle of a mark.
        append(&path).unwrap().write_all(&[9; 31]).unwrap();
        // The journal ends with record 4: the last event is not in it.
        let (mut book, restored) = Progress::open(path.clone(), "boot", 7, 5);
        assert_eq!(restored.position, 152);
        assert_eq!(restored.told[&key(1)].packets, 11);
        assert_eq!((restored.told[&key(2)].packets, restored.told[&key(2)].bytes), (20, 2000));
        // What was not believed is gone for good, whatever gets its number.
        book.announce(5, &[flow(2, 21)]);
        drop(book);
        let (_, restored) = Progress::open(path.clone(), "boot", 7, 6);
        assert_eq!((restored.position, restored.told[&key(2)].packets), (152, 21));
        // Another boot or another map: other tables.
        for (boot, map) in [("tob", 7), ("boot", 8)] {
            let copy = dir.path().join("copy");
            fs::copy(&path, &copy).unwrap();
            let (_, restored) = Progress::open(copy, boot, map, 100);
            assert_eq!(restored, Restored::default(), "{boot} {map}");
        }
    }
}
