//! Counts what a Rust test program reports, from its output as it streams by.
//!
//! libtest knows no skip at run time. A test that cannot run prints `SKIPPED NAME: REASON` (the
//! harness does) and returns; it counts as skipped here, not as passed. Ignored tests count as skipped too.

use std::{fmt, ops::AddAssign};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Tally {
    pub(crate) fn executed(self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What a run came to. `explained`: a failed exit code has a failed test beside it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub counts: Tally,
    pub explained: bool,
}

/// Takes output in chunks of any size and adds up the summaries of all programs in it.
#[derive(Default)]
pub(crate) struct Watcher {
    tally: Tally,
    line: Vec<u8>,
    /// Tests announced by `running N tests` whose summary has not come yet.
    open: u64,
    /// Tests that said since the last summary that they skipped themselves.
    skips: u64,
}

impl Watcher {
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.see(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(byte);
            }
        }
    }

    /// Whether the output so far ends with a whole line.
    pub(crate) fn at_line_start(&self) -> bool {
        self.line.is_empty()
    }

    /// Closes the count. A program that died without a summary, or failed without a failed test
    /// (it did not compile, it was killed), counts as one failure.
    pub(crate) fn finish(mut self, success: bool) -> Outcome {
        self.feed(b"\n");
        let died = self.open > 0;
        let explained = self.tally.failed > 0 && !died;
        if died || !success && !explained {
            self.tally.failed += 1;
        }
        Outcome { counts: self.tally, explained }
    }

    fn see(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ").and_then(summary) {
            // No more skips than passes: the words might stand in some test's own output.
            let skips = self.skips.min(counts.passed);
            self.tally.passed += counts.passed - skips;
            self.tally.failed += counts.failed;
            self.tally.skipped += counts.skipped + skips;
            (self.skips, self.open) = (0, 0);
        } else if let Some(count) = line.strip_prefix("running ").and_then(announced) {
            if self.open > 0 {
                // The program before this one never reached its summary.
                self.tally.failed += 1;
            }
            // Also a program of no tests prints a summary: one stands for "announced".
            (self.skips, self.open) = (0, count.max(1));
        } else if after_name(line).starts_with("SKIPPED ") {
            self.skips += 1;
        }
    }
}

/// Without capture, the first output of a test follows its name on the same line.
fn after_name(line: &str) -> &str {
    match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
        Some((_, output)) => output,
        None => line,
    }
}

/// `12 tests`, `1 test`.
fn announced(text: &str) -> Option<u64> {
    let (count, noun) = text.split_once(' ')?;
    matches!(noun.trim_end(), "test" | "tests").then(|| count.parse().ok())?
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn summary(text: &str) -> Option<Tally> {
    let (_, counts) = text.split_once(". ")?;
    let count = |word: &str| {
        let part = counts.split(';').find(|part| part.trim().ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(output: &str, success: bool) -> Outcome {
        let mut watcher = Watcher::default();
        // Odd chunks: boundaries must not matter.
        output.as_bytes().chunks(7).for_each(|chunk| watcher.feed(chunk));
        watcher.finish(success)
    }

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    const OK: &str = "\nrunning 3 tests\ntest a ... ok\ntest b ... ignored\ntest c ... ok\n\n\
        test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s\n";
    const FAILED: &str = "\nrunning 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n    b\n\n\
        test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";

    #[test]
    fn several_programs_add_up() {
        let outcome = watch(&format!("{OK}{FAILED}{OK}"), false);
        assert_eq!(outcome, Outcome { counts: tally(5, 1, 2), explained: true });
        assert_eq!(outcome.counts.to_string(), "5 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn tests_that_skip_themselves_are_no_passes() {
        let captured = "running 2 tests\ntest a ... ok\ntest b ... ok\n\nsuccesses:\n\n\
            ---- a stdout ----\nSKIPPED a: needs CAP_BPF\n\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";
        assert_eq!(watch(captured, true).counts, tally(1, 0, 1));
        let live = "running 1 test\ntest a ... SKIPPED a: needs CAP_BPF\nok\n\n\
            test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";
        assert_eq!(watch(live, true).counts, tally(0, 0, 1));
        assert_eq!(watch(live, true).counts.executed(), 0);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let died = "running 4 tests\ntest a ... ok\ntest b ... ";
        assert_eq!(watch(died, false), Outcome { counts: tally(0, 1, 0), explained: false });
        // Also when another program's failure would explain the exit code, or one follows it.
        assert_eq!(watch(&format!("{FAILED}{died}"), false).counts, tally(1, 2, 0));
        assert_eq!(watch(&format!("{died}\n{OK}"), false).counts.failed, 1);
        // Or when something turned the exit code into success.
        assert_eq!(watch(died, true).counts, tally(0, 1, 0));
    }

    #[test]
    fn a_line_cut_short_is_noticed() {
        let mut watcher = Watcher::default();
        assert!(watcher.at_line_start());
        watcher.feed(b"test a ... ok\ntest b ... ");
        assert!(!watcher.at_line_start());
        watcher.feed(b"ok\n");
        assert!(watcher.at_line_start());
    }

    #[test]
    fn failing_without_any_test_is_a_failure() {
        assert_eq!(watch("", false), Outcome { counts: tally(0, 1, 0), explained: false });
        assert_eq!(watch("", true).counts.executed(), 0);
    }

    #[test]
    fn look_alikes_in_output_do_not_count() {
        let noise = "running 5 miles\ntest result: pending\nwas SKIPPED no\n 1 passed; 1 failed\n";
        let outcome = watch(&format!("{noise}{OK}{noise}"), true);
        assert_eq!(outcome.counts, tally(2, 0, 1));
    }
}
