//! Runs other programs and says so: the one place that prints steps, checks exit codes and elevates.

use std::{
    env,
    ffi::OsStr,
    io::IsTerminal,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Announces a step and its reason, on stderr like everything that is not a result.
pub(crate) fn step(what: &str, why: &str) {
    eprintln!("==> {what}: {why}");
}

/// Announces that a step has nothing to do.
pub(crate) fn have(what: &str) {
    eprintln!("  ok {what}");
}

/// Runs a program on this terminal; a failure names the program.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if !succeeds(command)? {
        bail!("failed: {}", shown(command));
    }
    Ok(())
}

/// Runs a program on this terminal and returns whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    eprintln!("   $ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    Ok(status.success())
}

/// Runs a program silently and returns what it wrote to stdout.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        bail!("failed: {}\n{}", shown(command), log.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs us, so that a `+toolchain` on the command line holds for what we start.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where a program lies, looking also where Debian keeps administration programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// How a program can be started as root here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elevation {
    /// We are root.
    None,
    Sudo,
    /// Not root, and nobody there to type a password.
    Impossible,
}

pub(crate) fn elevation() -> Elevation {
    if is_root() {
        return Elevation::None;
    }
    let silent = || {
        let mut probe = Command::new("sudo");
        probe.args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    if find_program("sudo").is_some() && (std::io::stdin().is_terminal() || silent()) {
        Elevation::Sudo
    } else {
        Elevation::Impossible
    }
}

/// A command that runs `program` as root with these variables, which sudo would drop by itself.
pub(crate) fn as_root(program: &OsStr, variables: &[(&str, String)]) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().map(|(key, value)| (key, value)));
        return command;
    } else {
        Command::new("sudo")
    };
    command.args(["-E", "env"]);
    command.args(variables.iter().map(|(key, value)| format!("{key}={value}")));
    command.arg(program);
    command
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
