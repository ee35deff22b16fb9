//! `demo`: shows the main job end to end in private network namespaces. Prints; [`crate::demo`] works.
//!
//! `demo/show.rs` has the text, `demo/document.rs` the JSON, `demo/table.rs` the table of both.

mod document;
mod show;
mod table;

use std::{
    env,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};

use self::{document::document, show::Show};
use super::{
    FINDING, Format, Global, OK,
    output::{Output, use_color},
};
use crate::{
    data::dataset::Dataset,
    demo::{
        guard::{self, End},
        stage::{self, Setting},
        workload,
    },
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent demo
  sov-agent demo --json | jq .table
  sov-agent demo --json | jq '.records[].status_code'

Needs root. Makes network namespaces with real addresses of the embedded data and no route out of the
machine, starts an agent in one of them, and sends TCP, UDP and ICMP with and without a tag. What arrives
is counted on the far side. Nothing stays behind, whatever ends it. JSON has the flow log as OCSF events.

Exit status: 0 every expectation held, 1 some did not, 2 it could not be run.")]
pub struct Args {
    /// One JSON document instead of text; the same as --format json
    #[arg(long)]
    json: bool,
    /// Which role this process has
    #[arg(long, hide = true, value_enum)]
    part: Option<Part>,
    /// The stage's cgroup folder
    #[arg(long, hide = true)]
    cgroup: Option<PathBuf>,
    /// Why the stage has none
    #[arg(long, hide = true)]
    no_cgroup: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Part {
    Stage,
    Workload,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let mut global = global.clone();
    if args.json {
        global.format = Format::Json;
    }
    match args.part {
        None => watch(&global),
        Some(Part::Stage) => perform(args, &global),
        Some(Part::Workload) => {
            workload::run()?;
            Ok(ExitCode::from(OK))
        }
    }
}

fn watch(global: &Global) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demonstration makes network namespaces and loads eBPF programs: run it as root");
    }
    let program = env::current_exe().context("this program's own path is unknown")?;
    let end = guard::watch(|cgroup| {
        let mut command = Command::new(program);
        command.args(["demo", "--part", "stage"]);
        command.arg(if use_color(global.color) { "--color=always" } else { "--color=never" });
        if global.format == Format::Json {
            command.arg("--json");
        }
        if global.verbose > 0 {
            command.arg(format!("-{}", "v".repeat(usize::from(global.verbose))));
        }
        match cgroup {
            Ok(folder) => command.arg("--cgroup").arg(folder),
            Err(why) => command.arg("--no-cgroup").arg(why),
        };
        command
    })?;
    match end {
        End::Interrupted(signal) => {
            super::logging::plain("interrupted; nothing is left behind");
            guard::die_by(signal)
        }
        End::Exited(status) => match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(code) => Ok(ExitCode::from(code)),
            None => bail!(guard::death(status)),
        },
    }
}

fn perform(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let unknown = || args.no_cgroup.clone().unwrap_or_else(|| "no folder was given".into());
    let setting = Setting {
        cgroup: args.cgroup.clone().ok_or_else(unknown),
        program: env::current_exe().context("this program's own path is unknown")?,
    };
    let mut show = Show { out: Output::new(global), data: Dataset::embedded()? };
    show.title()?;
    let report = stage::run(&setting, |event| show.event(&event))?;
    let good = report.problems.is_empty()
        && report.outcomes.iter().all(|outcome| outcome.differences.is_empty());
    if show.out.is_json() {
        let document = document(&show.data, &report, good);
        show.out.json(&document)?;
    } else {
        show.close(&report, good)?;
    }
    show.out.finish()?;
    Ok(ExitCode::from(if good { OK } else { FINDING }))
}
