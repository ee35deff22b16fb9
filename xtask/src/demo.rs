//! `demo`: set-up, build, and the agent's own demonstration as root.

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    exec::{self, Elevation},
    packages, setup, workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `sov-agent demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::run(packages::Use::Demo)?;
    exec::step("building the agent", "the demonstration is one of its commands");
    exec::run(exec::cargo().current_dir(workspace::root()).args([
        "build",
        "--package",
        "sov-agent",
    ]))?;
    if exec::elevation() == Elevation::Impossible {
        bail!(
            "the demo makes network namespaces and loads eBPF programs: run it as root or with sudo"
        );
    }
    let agent = workspace::built(&workspace::members()?, "sov-agent")?;
    exec::step("running the demonstration", "as root, in network namespaces of its own");
    let mut command = exec::as_root(agent.as_os_str(), &[]);
    command.arg("demo").args(&args.rest);
    // The agent takes our place: signals reach it, and its exit code is ours.
    Err(command.exec()).with_context(|| format!("cannot run {}", agent.display()))
}
