//! The OCSF validator's Python environment, in the target folder: nothing of the user's is touched.
//!
//! A machine that cannot have it (no Python, no registry) is told so; whether that is a failure is decided
//! by the caller.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::apt;
use crate::{exec, workspace};

/// What is installed, one requirement a line.
const REQUIREMENTS: &str = "tests/ocsf_requirements.txt";
/// Inside the environment: the requirements that it was made from, written last.
const STAMP: &str = "made-from.txt";
const WHY: &str = "an independent OCSF validator checks the records that the tests cause";

/// The interpreter of the environment, which is made if it is not there or is of other requirements.
pub(crate) fn ocsf(target: &Path) -> Result<PathBuf> {
    let wanted = fs::read_to_string(workspace::root().join(REQUIREMENTS))
        .with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let folder = target.join("ocsf-venv");
    let python = folder.join("bin/python");
    if fs::read_to_string(folder.join(STAMP)).is_ok_and(|made| made == wanted) && imports(&python) {
        exec::have(&format!("OCSF validator ({})", folder.display()));
        return Ok(python);
    }
    exec::step(&format!("making {}", folder.display()), WHY);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    make(&folder)?;
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    exec::run(install.arg(workspace::root().join(REQUIREMENTS)))?;
    if !imports(&python) {
        bail!("{} was made, but does not import the validator", folder.display());
    }
    fs::write(folder.join(STAMP), wanted)?;
    Ok(python)
}

/// An empty environment, by the user's Python or, where that lacks a part, the distribution's.
fn make(folder: &Path) -> Result<()> {
    let venv = |python: &Path| {
        let mut command = Command::new(python);
        command.args(["-m", "venv", "--clear"]).arg(folder);
        exec::capture(&mut command)
    };
    let own = exec::find_program("python3");
    if own.as_deref().is_some_and(|python| venv(python).is_ok()) {
        return Ok(());
    }
    let have = if own.is_some() { "python3 has no `venv`" } else { "there is no python3" };
    exec::step("installing python3-venv", have);
    apt::install(&["python3-venv"])?;
    venv(Path::new("/usr/bin/python3")).map(|_| ())
}

fn imports(python: &Path) -> bool {
    let code = "import jsonschema, ocsf_json_schema";
    exec::capture(Command::new(python).args(["-c", code])).is_ok()
}
