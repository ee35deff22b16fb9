//! `tidy`: the rules that no compiler checks. All findings at once, as `file:line: message`.
//!
//! Reads the tree, changes nothing. Text rules are in `tidy/rules.rs`, dependencies in `tidy/crates.rs`.

mod crates;
mod rules;
mod source;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::workspace;

/// Folders that hold no sources of ours.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "artifacts"];

/// Files that are read as text. Everything else (tables, archives) is left alone.
const TEXT: &[&str] = &["rs", "toml", "md", "sh", "py", "yml", "yaml", "json", "service", "txt"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    Warning,
}

/// A broken rule and where. `line` counts from 1; 0 stands for the whole file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub path: String,
    pub line: usize,
    pub level: Level,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.level == Level::Warning { "warning: " } else { "" };
        write!(f, "{}:{}: {word}{}", self.path, self.line.max(1), self.message)
    }
}

pub(crate) fn run() -> Result<ExitCode> {
    let root = workspace::root();
    let mut findings = Vec::new();
    let files = files(root)?;
    for path in &files {
        let bytes = fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => findings.extend(rules::check(path, text)),
            Err(_) => findings.push(Finding {
                path: path.clone(),
                line: 0,
                level: Level::Error,
                message: "is not UTF-8".into(),
            }),
        }
    }
    findings.extend(crates::check()?);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    let warnings = findings.len() - errors;
    eprintln!("tidy: {} files, {errors} errors, {warnings} warnings", files.len());
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Text files below the root, as sorted paths relative to it.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut folders = vec![PathBuf::new()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        let entries =
            fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = folder.join(&*name);
            let kind = entry.file_type()?;
            if kind.is_dir() && !SKIPPED.contains(&&*name) {
                folders.push(path);
            } else if kind.is_file() && is_text(&path) {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_text(path: &Path) -> bool {
    let known = path.extension().is_some_and(|end| TEXT.iter().any(|text| end == *text));
    known || path.parent().is_some_and(|folder| folder == ".ci")
}
