//! `detach`: removes the programs that a stopped agent left in force.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::{FINDING, Global, OK, logging};
use crate::{agent::Paths, datapath::Pins, flowlog::journal::is_being_written};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent detach

Enforcement ends with this command. A running agent is not touched: stop it first.

Exit status: 0 removed, 1 there was nothing, 2 not possible.")]
pub struct Args {}

pub fn run(_: &Args, _: &Global) -> anyhow::Result<ExitCode> {
    let paths = Paths::from_env();
    let pins = Pins::new(&paths.pins);
    if is_being_written(&paths.journal()) {
        bail!("an agent is running; stop it first, or start it with `run --detach`");
    }
    let folder = pins.path().display().to_string();
    let removed = pins.remove().with_context(|| format!("cannot remove the pins in {folder}"))?;
    let Some(links) = removed else {
        logging::plain(&format!("nothing is pinned in {folder}"));
        return Ok(ExitCode::from(FINDING));
    };
    logging::plain(&format!("{links} links removed; nothing is enforced any more"));
    Ok(ExitCode::from(OK))
}
