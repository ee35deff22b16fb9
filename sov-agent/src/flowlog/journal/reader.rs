//! Reading the journal, oldest line first, while it may be written, rotated and pruned.
//!
//! Takes no lock and needs no writer. A line that cannot be read is an item of its own: the reader says
//! where it is and goes on.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    is_being_written,
    segment::{self, MAX_LINE, Segment},
};
use crate::flowlog::{
    ocsf::{self, DecodeError},
    record::FlowRecord,
};

/// How often a follower asks for more.
pub const POLL: Duration = Duration::from_millis(100);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Oldest,
    /// Skips segments that end before this unix time in ns; single older records may still come.
    Since(u64),
    /// The two newest segments: enough to show the last few records at once.
    Recent,
}

/// One line and where it is.
#[derive(Clone, Debug)]
pub struct Line {
    pub path: Arc<Path>,
    /// From 1.
    pub number: u64,
    /// Without the newline; empty where `problem` is set.
    pub bytes: Vec<u8>,
    pub problem: Option<Problem>,
}

/// Why a line could not even be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("torn: the segment ends in the middle of it")]
    Torn,
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error(transparent)]
    Problem(#[from] Problem),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Line {
    pub fn record(&self) -> Result<FlowRecord, LineError> {
        match self.problem {
            Some(problem) => Err(problem.into()),
            None => Ok(ocsf::decode(&self.bytes)?),
        }
    }
}

pub struct Reader {
    dir: PathBuf,
    open: Option<Open>,
    /// Segments below this number are not looked at any more.
    from: u64,
}

impl Reader {
    /// Fails where the folder cannot be listed; a folder without segments is an empty journal.
    pub fn open(dir: &Path, start: Start) -> io::Result<Self> {
        let segments = segment::list(dir)?;
        let from = match start {
            Start::Oldest => 0,
            Start::Recent => segments.iter().rev().nth(1).map_or(0, |s| s.first),
            Start::Since(time) => {
                let began_before = |s: &&Segment| s.since().is_some_and(|since| since <= time);
                segments.iter().rev().find(began_before).map_or(0, |s| s.first)
            }
        };
        Ok(Self { dir: dir.to_owned(), open: None, from })
    }

    /// The next line; `None` when there is none *yet*: ask again after [`POLL`] to follow.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(open) = &mut self.open else {
                match self.newer()? {
                    Some(open) => self.open = Some(open),
                    None => return Ok(None),
                }
                continue;
            };
            if let Some(line) = open.take()? {
                return Ok(Some(line));
            }
            // A newer segment means that this one is complete, once it has been read to its end again.
            self.from = open.first + 1;
            let Some(newer) = self.newer()? else { return Ok(None) };
            let Some(open) = &mut self.open else { continue };
            if let Some(line) = open.take()? {
                return Ok(Some(line));
            }
            let torn = open.torn();
            self.open = Some(newer);
            if torn.is_some() {
                return Ok(torn);
            }
        }
    }

    /// After the last `None`, where nobody will follow: a torn tail that no writer is about to complete.
    pub fn finish(self) -> Option<Line> {
        let mut open = self.open?;
        if is_being_written(&self.dir) { None } else { open.torn() }
    }

    /// The oldest segment at or after `from`.
    fn newer(&self) -> io::Result<Option<Open>> {
        for segment in segment::list(&self.dir)? {
            if segment.first < self.from {
                continue;
            }
            match Open::new(&segment) {
                Ok(open) => return Ok(Some(open)),
                // Retention took it between the listing and now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
}

struct Open {
    path: Arc<Path>,
    first: u64,
    file: File,
    /// What was read and not yet given out; scanned for newlines up to `scanned`.
    buffer: Vec<u8>,
    at: usize,
    scanned: usize,
    /// File offset after `buffer`.
    offset: u64,
    number: u64,
    /// In the middle of a line that is too long.
    skipping: bool,
}

impl Open {
    fn new(segment: &Segment) -> io::Result<Self> {
        Ok(Self {
            path: Arc::from(&*segment.path),
            first: segment.first,
            file: File::open(&segment.path)?,
            buffer: Vec::new(),
            at: 0,
            scanned: 0,
            offset: 0,
            number: 0,
            skipping: false,
        })
    }

    fn take(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(found) = self.buffer[self.scanned..].iter().position(|&b| b == b'\n') {
                let end = self.scanned + found;
                let bytes = self.buffer[self.at..end].to_vec();
                self.at = end + 1;
                self.scanned = self.at;
                let too_long = std::mem::take(&mut self.skipping) || bytes.len() > MAX_LINE;
                return Ok(Some(self.line(bytes, too_long.then_some(Problem::TooLong))));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() - self.at > MAX_LINE {
                self.skipping = true;
                self.buffer.clear();
                (self.at, self.scanned) = (0, 0);
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads on; `false` at the end of what there is.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        (self.at, self.scanned) = (0, self.scanned - self.at);
        let length = self.buffer.len();
        self.buffer.resize(length + (1 << 16), 0);
        let read = loop {
            match self.file.read(&mut self.buffer[length..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(length + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.offset += read as u64;
        if read == 0 && self.file.metadata()?.len() < self.offset {
            // A restarted agent cut the torn tail that we hold: it is gone.
            self.buffer.clear();
            self.scanned = 0;
            self.offset = self.file.seek(SeekFrom::End(0))?;
            self.skipping = false;
        }
        Ok(read > 0)
    }

    /// The incomplete last line, if there is one.
    fn torn(&mut self) -> Option<Line> {
        (self.at < self.buffer.len() || self.skipping)
            .then(|| self.line(Vec::new(), Some(Problem::Torn)))
    }

    fn line(&mut self, mut bytes: Vec<u8>, problem: Option<Problem>) -> Line {
        if problem.is_some() {
            bytes = Vec::new();
        }
        self.number += 1;
        Line { path: Arc::clone(&self.path), number: self.number, bytes, problem }
    }
}
