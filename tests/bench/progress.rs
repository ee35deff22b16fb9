//! Says on stderr what is being measured and how long it has taken so far.

use std::time::Instant;

pub(crate) struct Progress(Instant);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    pub(crate) fn step(&self, what: &str) {
        let seconds = self.0.elapsed().as_secs();
        eprintln!("  [{:>2}:{:02}] {what}", seconds / 60, seconds % 60);
    }
}
