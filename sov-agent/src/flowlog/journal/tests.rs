//! Rotation, retention, restarts, torn tails, full disks, followers.

use std::{collections::HashSet, os::unix::fs::FileExt as _};

use super::{
    reader::{Line, Problem, Reader, Start},
    *,
};
use crate::flowlog::record::samples;

const SECOND: u64 = 1_000_000_000;

fn open(dir: &Path) -> Journal {
    let (journal, repairs) = Journal::open(Settings::new(dir), SECOND).expect("opens");
    assert_eq!(repairs, []);
    journal
}

fn append(journal: &mut Journal, count: usize) -> usize {
    journal.append(&mut vec![samples::full(); count], None, SECOND)
}

fn lines(dir: &Path) -> Vec<Line> {
    let mut reader = Reader::open(dir, Start::Oldest).expect("opens");
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line().expect("reads") {
        lines.push(line);
    }
    lines.extend(reader.finish());
    lines
}

fn sequences(dir: &Path) -> Vec<u64> {
    lines(dir).iter().map(|line| line.record().expect("a record").sequence).collect()
}

fn newest(dir: &Path) -> PathBuf {
    segment::list(dir).expect("lists").pop().expect("a segment").path
}

#[test]
fn sequence_numbers_go_on_over_restarts() {
    let dir = tempfile::tempdir().expect("temp dir");
    let dir = dir.path().join("flows");
    for round in 1..=3u64 {
        let mut journal = open(&dir);
        assert_eq!(append(&mut journal, 5), 5);
        assert_eq!(journal.state().next_sequence, round * 5 + 1);
    }
    assert_eq!(sequences(&dir), (1..=15).collect::<Vec<_>>());
    assert_eq!(fs::metadata(&dir).expect("stat").permissions().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(newest(&dir)).expect("stat").permissions().mode() & 0o777, 0o640);
}

#[test]
fn the_ledger_is_on_the_last_record_of_a_batch() {
    let dir = tempfile::tempdir().expect("temp dir");
    let ledger = Ledger { blocked: 3, recorded: 3, ..Ledger::default() };
    let record = FlowRecord { ledger: None, ..samples::full() };
    open(dir.path()).append(&mut [record.clone(), record], Some(ledger), SECOND);
    let found: Vec<_> =
        lines(dir.path()).iter().map(|l| l.record().expect("a record").ledger).collect();
    assert_eq!(found, [None, Some(ledger)]);
}

#[test]
fn a_second_writer_is_refused_and_a_killed_one_leaves_no_lock() {
    let dir = tempfile::tempdir().expect("temp dir");
    let first = open(dir.path());
    assert!(is_being_written(dir.path()));
    let second = Journal::open(Settings::new(dir.path()), 0);
    assert!(matches!(second, Err(JournalError::Busy { .. })));
    drop(first);
    assert!(!is_being_written(dir.path()));
    open(dir.path());
}

#[test]
fn segments_rotate_by_size_and_the_oldest_go() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = Settings::new(dir.path());
    settings.segment_bytes = 10_000;
    settings.total_bytes = 40_000;
    let (mut journal, _) = Journal::open(settings.clone(), SECOND).expect("opens");
    for _ in 0..100 {
        assert_eq!(append(&mut journal, 1), 1);
    }
    let state = journal.state();
    assert!(state.bytes <= 40_000 + 10_000, "{state:?}");
    assert!(state.segments > 2 && state.deleted_segments > 2, "{state:?}");
    let on_disk: u64 = segment::list(dir.path()).expect("lists").iter().map(|s| s.bytes).sum();
    assert_eq!(on_disk, state.bytes);
    let found = sequences(dir.path());
    assert_eq!(found.last(), Some(&100));
    assert!(found.windows(2).all(|w| w[1] == w[0] + 1), "a hole: {found:?}");
    drop(journal);
    settings.total_bytes = 1;
    let (journal, _) = Journal::open(settings, SECOND).expect("opens");
    assert_eq!((journal.state().segments, journal.state().next_sequence), (1, 101));
}

#[test]
fn segments_rotate_by_age() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = Settings::new(dir.path());
    settings.segment_age = Duration::from_secs(60);
    let (mut journal, _) = Journal::open(settings, 0).expect("opens");
    journal.append(&mut [samples::full()], None, SECOND);
    journal.tick(60 * SECOND);
    assert_eq!(segment::list(dir.path()).expect("lists").len(), 1);
    journal.tick(61 * SECOND);
    journal.append(&mut [samples::full()], None, 62 * SECOND);
    assert_eq!(segment::list(dir.path()).expect("lists").len(), 2);
    assert_eq!(sequences(dir.path()), [1, 2]);
}

#[test]
fn a_torn_tail_is_reported_cut_and_kept_aside() {
    let dir = tempfile::tempdir().expect("temp dir");
    append(&mut open(dir.path()), 3);
    let path = newest(dir.path());
    let whole = fs::read(&path).expect("reads");
    let newlines: Vec<_> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
    let second_newline = newlines[1] + 1;
    // kill -9 in the middle of a write, at every kind of place.
    for cut in [second_newline + 1, second_newline + 700, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("writes");
        let torn = lines(dir.path());
        assert_eq!(torn.len(), 3);
        assert_eq!(torn[2].problem, Some(Problem::Torn));
        assert_eq!(torn[2].number, 3);

        let (mut journal, repairs) =
            Journal::open(Settings::new(dir.path()), SECOND).expect("opens");
        let [repair] = &repairs[..] else { panic!("{repairs:?}") };
        assert_eq!(
            (repair.offset, repair.bytes),
            (second_newline as u64, (cut - second_newline) as u64)
        );
        let kept = fs::read(repair.kept.as_ref().expect("kept")).expect("reads");
        assert_eq!(kept, &whole[second_newline..cut]);
        assert_eq!(journal.state().repaired, 1);
        assert_eq!(append(&mut journal, 2), 2);
        assert_eq!(sequences(dir.path()), [1, 2, 3, 4]);
    }
}

#[test]
fn damaged_lines_are_named_and_do_not_reset_the_sequence() {
    let dir = tempfile::tempdir().expect("temp dir");
    append(&mut open(dir.path()), 3);
    let path = newest(dir.path());
    let length = fs::metadata(&path).expect("stat").len();
    let file = OpenOptions::new().write(true).open(&path).expect("opens");
    file.write_at(b"X", length - 2).expect("writes");
    let found = lines(dir.path());
    assert_eq!(found.len(), 3);
    assert!(found[2].record().is_err());
    let mut journal = open(dir.path());
    append(&mut journal, 1);
    assert_eq!(lines(dir.path())[3].record().expect("a record").sequence, 4);
}

#[test]
fn endless_lines_do_not_fill_memory() {
    let dir = tempfile::tempdir().expect("temp dir");
    append(&mut open(dir.path()), 1);
    let path = newest(dir.path());
    let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
    file.write_all(&vec![b'{'; 3 << 20]).expect("writes");
    file.write_all(b"\n").expect("writes");
    append(&mut open(dir.path()), 1);
    let found = lines(dir.path());
    assert_eq!(found[1].problem, Some(Problem::TooLong));
    assert_eq!(found[2].number, 3);
    assert!(found[2].record().is_ok());
}

#[test]
fn a_follower_survives_rotation_and_retention() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = Settings::new(dir.path());
    settings.segment_bytes = 5_000;
    settings.total_bytes = 20_000;
    let (mut journal, _) = Journal::open(settings, SECOND).expect("opens");
    let mut reader = Reader::open(dir.path(), Start::Recent).expect("opens");
    let mut seen = HashSet::new();
    for round in 1..=60u64 {
        append(&mut journal, 1);
        while let Some(line) = reader.next_line().expect("reads") {
            assert!(seen.insert(line.record().expect("a record").sequence));
        }
        assert_eq!(seen.len() as u64, round);
    }
}

#[test]
fn a_follower_lets_go_of_a_tail_that_was_cut() {
    let dir = tempfile::tempdir().expect("temp dir");
    append(&mut open(dir.path()), 2);
    let path = newest(dir.path());
    let whole = fs::read(&path).expect("reads");
    fs::write(&path, &whole[..whole.len() - 5]).expect("writes");
    let mut reader = Reader::open(dir.path(), Start::Oldest).expect("opens");
    assert!(reader.next_line().expect("reads").is_some());
    assert!(reader.next_line().expect("reads").is_none());
    let (mut journal, _) = Journal::open(Settings::new(dir.path()), SECOND).expect("opens");
    assert!(reader.next_line().expect("reads").is_none());
    append(&mut journal, 1);
    let line = reader.next_line().expect("reads").expect("the next record");
    assert_eq!(line.record().expect("a record").sequence, 2);
}

#[test]
fn since_skips_segments() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = Settings::new(dir.path());
    settings.segment_bytes = 1;
    let (mut journal, _) = Journal::open(settings, SECOND).expect("opens");
    for second in 1..=5 {
        let record = FlowRecord { time: second * SECOND, ..samples::full() };
        journal.append(&mut [record], None, second * SECOND);
    }
    let mut reader = Reader::open(dir.path(), Start::Since(3 * SECOND)).expect("opens");
    let first = reader.next_line().expect("reads").expect("a line").record().expect("a record");
    assert_eq!(first.time, 3 * SECOND);
}

#[test]
fn other_files_in_the_folder_are_left_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    for name in ["flows-1.jsonl", "flows-x.jsonl", "notes"] {
        fs::write(dir.path().join(name), "mine").expect("writes");
    }
    fs::create_dir(dir.path().join(segment::name(9))).expect("mkdir");
    append(&mut open(dir.path()), 1);
    assert_eq!(sequences(dir.path()), [1]);
}

/// A file system of 64 KiB; needs root. `None` says so, or fails where skipping is not allowed.
fn tiny_disk() -> Option<(tempfile::TempDir, Unmount)> {
    let dir = tempfile::tempdir().expect("temp dir");
    let options = c"size=64k,mode=0755";
    match rustix::mount::mount(
        "tmpfs",
        dir.path(),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        Some(options),
    ) {
        Ok(()) => {
            let unmount = Unmount(dir.path().to_owned());
            Some((dir, unmount))
        }
        Err(e) => {
            let required = |name| std::env::var_os(name).is_some_and(|v| v == "1" || v == "true");
            assert!(
                !required("SOV_REQUIRE_PRIVILEGED") && !required("CI"),
                "cannot mount a tmpfs: {e}"
            );
            eprintln!("SKIPPED: cannot mount a tmpfs ({e}); run as root");
            None
        }
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_counted_and_passes() {
    let Some((dir, _unmount)) = tiny_disk() else { return };
    let dir = dir.path();
    let mut journal = open(dir);
    let mut written = 0;
    for _ in 0..100 {
        written += append(&mut journal, 1);
    }
    let state = journal.state();
    assert!(written > 10 && written < 100, "{written} of 100 fitted on 64 KiB");
    assert_eq!((state.written, state.lost), (written as u64, 100 - written as u64));
    assert_eq!(state.errors, state.lost);
    assert!(state.last_error.as_deref().is_some_and(|e| e.contains("No space")), "{state:?}");
    // What is there is whole, and the gap in the numbers shows what is not.
    assert_eq!(sequences(dir), (1..=written as u64).collect::<Vec<_>>());
    // Room again: it goes on by itself.
    let path = newest(dir);
    OpenOptions::new().write(true).open(&path).expect("opens").set_len(0).expect("cuts");
    journal.active.as_mut().expect("active").segment.bytes = 0;
    assert_eq!(append(&mut journal, 3), 3);
    assert_eq!(sequences(dir), [101, 102, 103]);
}

#[test]
fn a_batch_that_half_fits_keeps_its_whole_records() {
    let Some((dir, _unmount)) = tiny_disk() else { return };
    let mut journal = open(dir.path());
    let written = append(&mut journal, 100);
    assert!(written > 10 && written < 100, "{written} of 100 fitted on 64 KiB");
    assert_eq!(sequences(dir.path()), (1..=written as u64).collect::<Vec<_>>());
    assert_eq!(journal.state().lost, 100 - written as u64);
}
