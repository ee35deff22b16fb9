//! `figures`: set-up, build, and the measurement of the packet path as root; the report in the target
//! folder.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    exec::{self, Elevation},
    packages, setup, test, workspace,
};

const TIER: &str = "figures";

pub(crate) fn run() -> Result<ExitCode> {
    setup::run(packages::Use::Demo)?;
    let Some((binary, folder)) = test::build(TIER)? else { return Ok(ExitCode::FAILURE) };
    if exec::elevation() == Elevation::Impossible {
        bail!("the measurement loads eBPF programs: run it as root or with sudo");
    }
    let report = workspace::target_folder(&workspace::members()?)?.join("figures.json");
    exec::step("measuring", "about a minute, as root; nothing else should run meanwhile");
    let variables =
        [("SOV_FIGURES", report.display().to_string()), ("SOV_REQUIRE_PRIVILEGED", "1".to_owned())];
    let mut command = exec::as_root(binary.as_os_str(), &variables);
    command.current_dir(folder).args(["--ignored", "--nocapture", "--exact", "full"]);
    exec::run(&mut command)?;
    println!("{}", report.display());
    Ok(ExitCode::SUCCESS)
}
