//! Messages for people, on stderr. Data never come this way.

use std::{
    env,
    fmt::Display,
    io::{self, Write as _},
};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Sets the logger up; `verbose` counts `-v`. A second call changes the level only.
pub fn init(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let journald = env::var_os("JOURNAL_STREAM").is_some();
    if log::set_boxed_logger(Box::new(Stderr { journald, verbose })).is_ok() {
        log::set_max_level(level);
    }
}

/// The last words of a command that failed.
pub fn error(message: &dyn Display) {
    // With stderr gone there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "error: {message}");
}

/// Text that is laid out already, such as a diagnostic with its line.
pub fn plain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

struct Stderr {
    /// Under systemd lines start with `<priority>`, so that `journalctl -p warning` works.
    journald: bool,
    verbose: u8,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates' internals are noise below the third -v.
        metadata.level() <= Level::Warn || self.verbose > 2 || metadata.target().starts_with("sov")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (priority, word) = match record.level() {
            Level::Error => (3, "error"),
            Level::Warn => (4, "warning"),
            Level::Info => (6, "info"),
            Level::Debug => (7, "debug"),
            Level::Trace => (7, "trace"),
        };
        let mut stderr = io::stderr().lock();
        // A closed stderr must not stop the agent.
        let _ = match self.journald {
            true => writeln!(stderr, "<{priority}>{}", record.args()),
            false => writeln!(stderr, "{word}: {}", record.args()),
        };
    }

    fn flush(&self) {}
}
