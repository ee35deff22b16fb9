//! The local journal: append-only segments of OCSF lines. The first place of every record, and the source
//! of every other sink.
//!
//! * A segment is `flows-<first sequence>.jsonl`; it rotates by size and age, the oldest go when all
//!   together exceed a limit. Sequence numbers go on over restarts.
//! * Durability: a record is handed to the kernel in the `append` that takes it, so killing the agent loses
//!   nothing that was appended. `fdatasync` runs at most once per [`Settings::sync_interval`], at rotation
//!   and on close: a power failure loses at most that much.
//! * A tail that a crash tore is cut off when the journal is next opened, kept aside as `torn-…`, and
//!   reported.
//! * Nothing here can stop enforcement: a full disk makes `append` count records as lost and return.

pub mod reader;
mod segment;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use self::segment::{Segment, Tail};
use super::{
    host::group_id,
    ocsf,
    record::{FlowRecord, Ledger},
};

/// Where the journal is by default.
pub const DEFAULT_DIR: &str = "/var/lib/sov/flows";
const LOCK: &str = "journal.lock";
/// Torn tails that are kept.
const TORN_KEPT: usize = 16;
/// Encoded records are written in pieces of about this size.
const WRITE_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub struct Settings {
    pub dir: PathBuf,
    /// A segment that reached this size is closed.
    pub segment_bytes: u64,
    /// A segment this old is closed.
    pub segment_age: Duration,
    /// Segments are deleted, oldest first, while all together are larger. The active one stays.
    pub total_bytes: u64,
    pub sync_interval: Duration,
}

impl Settings {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(24 * 3600),
            total_bytes: 1 << 30,
            sync_interval: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal {}: cannot {action}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("journal {}: another agent is writing to it", dir.display())]
    Busy { dir: PathBuf },
}

/// What was found torn when the journal was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub segment: PathBuf,
    /// Length of the segment after the cut.
    pub offset: u64,
    /// Bytes that were cut.
    pub bytes: u64,
    /// Where they are now; `None` where they could not be kept.
    pub kept: Option<PathBuf>,
}

/// What `status` and metrics say about the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalState {
    pub dir: PathBuf,
    pub segments: u64,
    /// Of all segments.
    pub bytes: u64,
    /// The number that the next record gets.
    pub next_sequence: u64,
    /// Records, since the agent started.
    pub written: u64,
    /// Records that could not be written, since the agent started.
    pub lost: u64,
    pub errors: u64,
    pub last_error: Option<String>,
    /// Segments that the size limit deleted, since the agent started.
    pub deleted_segments: u64,
    /// Torn tails found when the agent started.
    pub repaired: u64,
}

/// The writer. One per folder.
pub struct Journal {
    settings: Settings,
    active: Option<Active>,
    /// Closed segments, oldest first.
    closed: Vec<Segment>,
    next: u64,
    state: JournalState,
    group: Option<u32>,
    _lock: File,
}

struct Active {
    segment: Segment,
    file: File,
    /// Unix ns of its first record.
    since: u64,
    /// Unix ns of the oldest write that is not yet synced.
    dirty: Option<u64>,
}

impl Journal {
    /// Opens or makes the journal, repairs its tail, and goes on after the last sequence number.
    /// `now` is unix time in ns, here and below.
    pub fn open(settings: Settings, now: u64) -> Result<(Self, Vec<Repair>), JournalError> {
        let dir = settings.dir.clone();
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { action, path, source }
        };
        let group = group_id("sov");
        if !dir.is_dir() {
            fs::create_dir_all(&dir).map_err(io("create the folder", &dir))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))
                .map_err(io("set the mode", &dir))?;
            share(&dir, group);
        }
        let lock = lock(&dir)?;
        let mut closed = segment::list(&dir).map_err(io("list the folder", &dir))?;
        let mut repairs = Vec::new();
        let (mut active, mut next) = (None, 1);
        if let Some(mut last) = closed.pop() {
            let tail = Tail::read(&last).map_err(io("read", &last.path))?;
            if tail.torn > 0 {
                let repair = repair(&dir, &last, &tail).map_err(io("cut", &last.path))?;
                repairs.push(repair);
                last.bytes = tail.sound;
            }
            next = tail.next;
            let file = open_append(&last.path).map_err(io("open", &last.path))?;
            let since = tail.since.unwrap_or(now);
            active = Some(Active { segment: last, file, since, dirty: None });
        }
        let state = JournalState { dir, repaired: repairs.len() as u64, ..JournalState::default() };
        let mut journal = Self { settings, active, closed, next, state, group, _lock: lock };
        journal.retain();
        Ok((journal, repairs))
    }

    /// Numbers `records`, puts `ledger` on the last one, and writes all with as few system calls as
    /// possible. Returns how many are on record; the rest is counted as lost.
    pub fn append(
        &mut self,
        records: &mut [FlowRecord],
        ledger: Option<Ledger>,
        now: u64,
    ) -> usize {
        if let Some(last) = records.last_mut() {
            last.ledger = ledger;
        }
        let mut written = 0;
        let mut buffer =
            Vec::with_capacity(records.len().saturating_mul(2048).min(WRITE_BYTES * 2));
        let mut ends = Vec::new();
        for record in &mut *records {
            record.sequence = self.next;
            self.next = self.next.saturating_add(1);
            let start = buffer.len();
            match ocsf::encode(record, &mut buffer) {
                Ok(()) => ends.push(buffer.len()),
                Err(e) => {
                    buffer.truncate(start);
                    self.failed(&e);
                }
            }
            if buffer.len() >= WRITE_BYTES {
                written += self.write(&buffer, &ends, now);
                buffer.clear();
                ends.clear();
            }
        }
        if !ends.is_empty() {
            written += self.write(&buffer, &ends, now);
        }
        self.state.written += written as u64;
        self.state.lost += (records.len() - written) as u64;
        self.tick(now);
        written
    }

    /// Rotation by age and the periodic sync; call it about once a second when nothing is appended.
    pub fn tick(&mut self, now: u64) {
        let Some(active) = &mut self.active else { return };
        let passed =
            |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_nanos();
        if active.segment.bytes > 0 && passed(active.since, self.settings.segment_age) {
            return self.rotate();
        }
        if let Some(since) = active.dirty
            && passed(since, self.settings.sync_interval)
        {
            active.dirty = None;
            if let Err(e) = active.file.sync_data() {
                self.failed(&e);
            }
        }
    }

    /// The number that the next record gets.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    pub fn state(&self) -> JournalState {
        let active = self.active.as_ref();
        JournalState {
            segments: self.closed.len() as u64 + u64::from(active.is_some()),
            bytes: self.bytes(),
            next_sequence: self.next,
            ..self.state.clone()
        }
    }

    /// Writes whole records; returns how many of `ends` (their ends in `buffer`) are in the segment.
    fn write(&mut self, buffer: &[u8], ends: &[usize], now: u64) -> usize {
        let full = |active: &Active| {
            active.segment.bytes > 0
                && active.segment.bytes + buffer.len() as u64 > self.settings.segment_bytes
        };
        if self.active.as_ref().is_some_and(full) {
            self.rotate();
        }
        let first = self.next.saturating_sub(ends.len() as u64);
        let group = self.group;
        let active = match &mut self.active {
            Some(active) => active,
            None => match Active::create(&self.settings.dir, first, now, group) {
                Ok(active) => self.active.insert(active),
                Err(e) => {
                    self.failed(&e);
                    return 0;
                }
            },
        };
        if active.segment.bytes == 0 {
            active.since = now;
        }
        let (taken, error) = write_some(&mut active.file, buffer);
        let whole = ends.partition_point(|&end| end <= taken);
        let sound = active.segment.bytes + if whole == 0 { 0 } else { ends[whole - 1] as u64 };
        active.segment.bytes = sound;
        active.dirty.get_or_insert(now);
        if let Some(e) = error {
            // Half a record must not stay: the next one would be glued to it. Cutting needs no space. If
            // even that fails, the next records go to a new segment and the reader reports the torn one.
            let cut = active.file.set_len(sound);
            if cut.is_err()
                && let Some(active) = self.active.take()
            {
                self.closed.push(active.segment);
            }
            self.failed(&e);
        }
        whole
    }

    fn rotate(&mut self) {
        if let Some(active) = self.active.take() {
            if let Err(e) = active.file.sync_data() {
                self.failed(&e);
            }
            self.closed.push(active.segment);
        }
        self.retain();
    }

    /// Deletes the oldest segments while all together exceed the limit.
    fn retain(&mut self) {
        while self.bytes() > self.settings.total_bytes && !self.closed.is_empty() {
            let oldest = self.closed.remove(0);
            match fs::remove_file(&oldest.path) {
                Ok(()) => self.state.deleted_segments += 1,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    // Tried again at the next start; until then its bytes are not ours to count.
                    self.failed(&e);
                }
            }
        }
    }

    fn bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |a| a.segment.bytes);
        self.closed.iter().map(|s| s.bytes).sum::<u64>() + active
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.state.errors += 1;
        self.state.last_error = Some(error.to_string());
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(active) = &self.active {
            // Too late to tell anyone; the kernel writes it back later all the same.
            let _ = active.file.sync_data();
        }
    }
}

impl Active {
    fn create(dir: &Path, first: u64, now: u64, group: Option<u32>) -> io::Result<Self> {
        let path = dir.join(segment::name(first));
        let file = open_append(&path)?;
        share(&path, group);
        // The folder's entry must survive a power failure like the records do.
        File::open(dir)?.sync_all()?;
        let bytes = file.metadata()?.len();
        Ok(Self { segment: Segment { path, first, bytes }, file, since: now, dirty: None })
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Lets the group `sov` read, where it exists. Without it the journal is root's alone.
fn share(path: &Path, group: Option<u32>) {
    if let Some(group) = group {
        let _ = std::os::unix::fs::chown(path, None, Some(group));
    }
}

fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join(LOCK);
    let file = open_append(&path).map_err(|source| JournalError::Io {
        action: "open",
        path: path.clone(),
        source,
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Busy { dir: dir.to_owned() }),
        Err(e) => Err(JournalError::Io { action: "lock", path, source: e.into() }),
    }
}

/// Whether a writer has the journal open. `false` also where that cannot be asked.
pub fn is_being_written(dir: &Path) -> bool {
    File::open(dir.join(LOCK)).is_ok_and(|file| {
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

/// Keeps the torn bytes aside if there is room, and cuts them off in any case.
fn repair(dir: &Path, segment: &Segment, tail: &Tail) -> io::Result<Repair> {
    let stem = segment.path.file_stem().unwrap_or_default().to_string_lossy();
    let aside = dir.join(format!("torn-{stem}-{}", tail.sound));
    let kept = segment.copy_from(tail.sound, &aside).is_ok();
    if !kept {
        // Half a copy is worth nothing.
        let _ = fs::remove_file(&aside);
    }
    OpenOptions::new().write(true).open(&segment.path)?.set_len(tail.sound)?;
    forget_torn(dir);
    Ok(Repair {
        segment: segment.path.clone(),
        offset: tail.sound,
        bytes: tail.torn,
        kept: kept.then_some(aside),
    })
}

fn forget_torn(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut torn: Vec<PathBuf> = (entries.flatten())
        .filter(|e| e.file_name().to_string_lossy().starts_with("torn-"))
        .map(|e| e.path())
        .collect();
    torn.sort_unstable();
    for path in torn.iter().rev().skip(TORN_KEPT) {
        let _ = fs::remove_file(path);
    }
}

/// Writes as much as the disk takes; the count of bytes, and why it was not all.
fn write_some(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match file.write(&bytes[taken..]) {
            Ok(0) => return (taken, Some(io::ErrorKind::WriteZero.into())),
            Ok(n) => taken += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (taken, Some(e)),
        }
    }
    (taken, None)
}

#[cfg(test)]
mod tests;
