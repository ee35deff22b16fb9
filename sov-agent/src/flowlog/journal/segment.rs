//! Segment files: names, order, and what a tail says. Changes no file.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use crate::flowlog::ocsf;

/// Longer lines are damage: no record of ours comes near.
pub(super) const MAX_LINE: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub path: PathBuf,
    /// Sequence number of its first record, from its name.
    pub first: u64,
    pub bytes: u64,
}

/// The file name of the segment that starts with sequence number `first`; names sort like numbers.
pub(super) fn name(first: u64) -> String {
    format!("flows-{first:020}.jsonl")
}

/// All segments of `dir`, oldest first. Other files are none of ours.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let first = (file.to_str())
            .and_then(|n| n.strip_prefix("flows-")?.strip_suffix(".jsonl"))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse().ok());
        let Some(first) = first else { continue };
        // Retention may have taken it since.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() {
            segments.push(Segment { path: entry.path(), first, bytes: meta.len() });
        }
    }
    segments.sort_unstable_by_key(|segment| segment.first);
    Ok(segments)
}

impl Segment {
    /// Copies everything from `offset` on to `to`.
    pub(super) fn copy_from(&self, offset: u64, to: &Path) -> io::Result<()> {
        let mut from = File::open(&self.path)?;
        from.seek(SeekFrom::Start(offset))?;
        let mut to = File::create(to)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    }

    /// Unix time, ns, of the first record that can be read; `None` if the first line cannot.
    pub(super) fn since(&self) -> Option<u64> {
        let mut line = Vec::new();
        let file = File::open(&self.path).ok()?;
        BufReader::new(file).take(MAX_LINE as u64).read_until(b'\n', &mut line).ok()?;
        ocsf::decode(&line).ok().map(|record| record.time)
    }
}

/// What the end of a segment says.
pub(super) struct Tail {
    /// Bytes up to and with the last newline.
    pub sound: u64,
    /// Bytes after it.
    pub torn: u64,
    /// The sequence number to go on with.
    pub next: u64,
    pub since: Option<u64>,
}

impl Tail {
    pub(super) fn read(segment: &Segment) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 16, File::open(&segment.path)?);
        let (mut sound, mut torn, mut lines) = (0, 0, 0u64);
        // Where the last line begins that decodes is only known from the end, so remember offsets: the
        // starts of the last lines, newest last.
        let mut starts = std::collections::VecDeque::new();
        loop {
            let start = sound;
            let (length, complete) = skip_line(&mut reader)?;
            if !complete {
                torn += length;
                break;
            }
            sound += length;
            lines += 1;
            starts.push_back((start, length));
            if starts.len() > 64 {
                starts.pop_front();
            }
        }
        let mut next = None;
        let mut file = reader.into_inner();
        for (after, &(start, length)) in starts.iter().rev().enumerate() {
            if length > MAX_LINE as u64 {
                continue;
            }
            file.seek(SeekFrom::Start(start))?;
            let mut line = Vec::new();
            (&file).take(length).read_to_end(&mut line)?;
            if let Ok(record) = ocsf::decode(&line) {
                next = Some(record.sequence.saturating_add(1).saturating_add(after as u64));
                break;
            }
        }
        let counted = segment.first.saturating_add(lines);
        // Never below what the name and the lines prove, whatever a damaged line claims.
        let next = next.unwrap_or(counted).max(counted).max(1);
        Ok(Self { sound, torn, next, since: segment.since() })
    }
}

/// Skips to after the next newline: bytes skipped, and whether there was one.
fn skip_line(reader: &mut BufReader<File>) -> io::Result<(u64, bool)> {
    let mut skipped = 0;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok((skipped, false));
        }
        match bytes.iter().position(|&b| b == b'\n') {
            Some(at) => {
                reader.consume(at + 1);
                return Ok((skipped + at as u64 + 1, true));
            }
            None => {
                let length = bytes.len();
                skipped += length as u64;
                reader.consume(length);
            }
        }
    }
}
