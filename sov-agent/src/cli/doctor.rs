//! `doctor`: what this host has and lacks for enforcement, each finding with its fix. Changes nothing.
//!
//! Reads /proc and /sys only; what needs a bpf() call to be known belongs to the datapath.

mod host;
mod kernel;
mod tc;

use std::{io, path::PathBuf, process::ExitCode};

use serde::Serialize;

use self::host::Host;
use super::{
    FINDING, Global, OK,
    output::{Cell, Output, Paint, Table},
};
use crate::agent::Paths;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent doctor
  sov-agent doctor --format json | jq '.findings[] | select(.state != \"ok\")'

SOV_RUN_DIR, SOV_PIN_DIR and SOV_STATE_DIR move folders, as for `run`.
Exit status: 0 nothing needed is missing, 1 something is.")]
pub struct Args {
    /// Folder of the flow journal that is checked
    #[arg(long, value_name = "DIR", default_value_os_t = Paths::from_env().journal())]
    dir: PathBuf,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub state: State,
    pub detail: String,
    /// What to do about it; absent when nothing needs doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// Works, with a restriction.
    Warning,
    /// Needed, and not there.
    Missing,
}

impl Finding {
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Ok, detail: detail.into(), fix: None }
    }

    pub fn warning(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, state: State::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub fn missing(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, state: State::Missing, detail: detail.into(), fix: Some(fix.into()) }
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let mut findings = Host::new("/", Paths::from_env()).findings(&args.dir);
    findings.extend(tc::findings());
    let missing = findings.iter().filter(|f| f.state == State::Missing).count();
    let mut out = Output::new(global);
    if out.is_json() {
        out.json(&serde_json::json!({ "ready": missing == 0, "findings": findings }))?;
    } else {
        print(&mut out, &findings)?;
    }
    out.finish()?;
    Ok(ExitCode::from(if missing == 0 { OK } else { FINDING }))
}

fn print(out: &mut Output, findings: &[Finding]) -> io::Result<()> {
    let mut table = Table::new(&[]);
    for finding in findings {
        let (paint, word) = match finding.state {
            State::Ok => (Paint::Green, "ok"),
            State::Warning => (Paint::Yellow, "warning"),
            State::Missing => (Paint::Red, "missing"),
        };
        table.row([Cell::painted(paint, word), finding.check.into(), (&*finding.detail).into()]);
        if let Some(fix) = &finding.fix {
            table.row(["".into(), "".into(), Cell::painted(Paint::Cyan, format!("fix: {fix}"))]);
        }
    }
    out.table(&table)
}
