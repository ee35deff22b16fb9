//! `test`: set-up, the unit tier as the user, then the privileged tiers as root, and one total.
//!
//! Privileged tiers are the test targets of package `sov-tests`, found through cargo: a tier that does
//! not exist is not run. Binaries are built as the user and only run as root.

mod libtest;

use std::{
    env,
    ffi::OsString,
    io::{Read, Write},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    exec::{self, Elevation},
    packages, setup, workspace,
};
use libtest::{Tally, Watcher};

const UNIT: &str = "unit";
const PACKAGE: &str = "sov-tests";
/// The tier that holds records against the published schema.
const VALIDATING: &str = "e2e";

/// The order in which tiers make sense: a broken datapath explains a broken end-to-end test.
const ORDER: &[&str] = &["datapath", "e2e", "cli"];

/// Tiers whose programs run in test runs alone: nothing that one of them loads sees another's packets.
const UNATTACHED: &[&str] = &["datapath"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this tier: `unit`, or a test target of `sov-tests`
    tier: Option<String>,
    /// Threads of a privileged test binary. Without it one, for tests that share the machine's hooks, and
    /// two where a tier attaches nothing
    #[arg(long)]
    threads: Option<u32>,
    /// Passed on to the test binaries, for example a name filter
    #[arg(last = true)]
    rest: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::run(packages::Use::Test)?;
    let metadata = workspace::members()?;
    let tiers = tiers(workspace::test_targets(&metadata, PACKAGE), args.tier.as_deref())?;

    exec::step("building the agent", "the tests run the real program");
    exec::run(exec::cargo().current_dir(workspace::root()).args([
        "build",
        "--package",
        "sov-agent",
    ]))?;
    let agent = workspace::built(&metadata, "sov-agent")?;
    let mut variables = vec![("SOV_AGENT_BIN", agent.display().to_string())];
    let required = privileges_required();
    if required {
        variables.push(("SOV_REQUIRE_PRIVILEGED", "1".to_owned()));
    }
    if tiers.iter().any(|tier| tier == VALIDATING) {
        match setup::ocsf(&workspace::target_folder(&metadata)?) {
            Ok(python) => variables.push(("SOV_OCSF_PYTHON", python.display().to_string())),
            Err(error) if required => return Err(error.context("no OCSF validator")),
            Err(error) => eprintln!(
                "warning: no OCSF validator, so the test of records against the published schema \
                 skips itself: {error:#}"
            ),
        }
    }

    let mut total = Tally::default();
    for tier in &tiers {
        let start = Instant::now();
        let tally = if tier == UNIT {
            unit(args, &variables)?
        } else {
            privileged(tier, args, &variables)?
        };
        eprintln!("==> tier {tier}: {tally} in {:.1} s\n", start.elapsed().as_secs_f64());
        total += tally;
    }
    println!("{total}");
    if total.executed() == 0 {
        eprintln!("error: no test ran");
    }
    let good = total.failed == 0 && total.executed() > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tiers to run, in order; a name that does not exist is an error that lists those that do.
fn tiers(targets: Vec<String>, wanted: Option<&str>) -> Result<Vec<String>> {
    let rank = |name: &String| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len());
    let mut targets = targets;
    targets.sort_by_key(|name| (rank(name), name.clone()));
    let mut all = vec![UNIT.to_owned()];
    all.append(&mut targets);
    match wanted {
        None => Ok(all),
        Some(name) if all.iter().any(|tier| tier == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("no tier `{name}`; there are: {}", all.join(", ")),
    }
}

/// The default members' tests and the harness's own; none needs root.
fn unit(args: &Args, variables: &[(&str, String)]) -> Result<Tally> {
    exec::step("tier unit", "tests of the crates themselves, no root");
    let mut tally = Tally::default();
    for selection in [&[][..], &["--package", PACKAGE, "--lib"]] {
        let mut command = exec::cargo();
        command.current_dir(workspace::root()).args(["test", "--no-fail-fast"]).args(selection);
        command.arg("--").args(&args.rest).envs(variables.iter().map(|(k, v)| (k, v)));
        tally += watched(command)?;
    }
    Ok(tally)
}

fn privileged(tier: &str, args: &Args, variables: &[(&str, String)]) -> Result<Tally> {
    let Some((binary, folder)) = build(tier, Profile::Dev)? else {
        return Ok(Tally { failed: 1, ..Tally::default() });
    };

    let root = exec::elevation() != Elevation::Impossible;
    let how = if root {
        "as root: it makes namespaces and loads eBPF programs"
    } else {
        "without root, and no sudo answers: tests that need it skip themselves"
    };
    exec::step(&format!("tier {tier}"), how);
    let mut command = if root {
        exec::as_root(binary.as_os_str(), variables)
    } else {
        let mut command = Command::new(&binary);
        command.envs(variables.iter().map(|(key, value)| (key, value)));
        command
    };
    // The same folder as under `cargo test`. Passing tests show their output: it says what was skipped.
    let threads = args.threads.unwrap_or(if UNATTACHED.contains(&tier) { 2 } else { 1 });
    command.current_dir(folder).arg(format!("--test-threads={threads}"));
    command.arg("--show-output").args(&args.rest);
    watched(command)
}

/// How a test target is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Builds a test target of `sov-tests`: its binary and its package's folder. `None`: it does not
/// build, and cargo has said why.
pub(crate) fn build(tier: &str, profile: Profile) -> Result<Option<(PathBuf, PathBuf)>> {
    let mut build = exec::cargo();
    build.current_dir(workspace::root());
    build.args(["test", "--no-run", "--package", PACKAGE, "--test", tier]);
    build.args(["--message-format", "json-render-diagnostics"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    let output = build.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        eprintln!("error: {tier} does not build");
        return Ok(None);
    }
    built_test(&String::from_utf8_lossy(&output.stdout), tier)
        .with_context(|| format!("cargo built no test binary for {tier}"))
        .map(Some)
}

/// Runs a test program, shows its output as it comes, and counts.
fn watched(mut command: Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run the tests")?;
    let mut output = child.stdout.take().context("the tests have no output")?;
    let mut watcher = Watcher::default();
    let mut chunk = [0; 8192];
    let mut screen = std::io::stdout();
    loop {
        // Chunks, not lines: "test name ..." must show before the test is over.
        let length = output.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        watcher.feed(&chunk[..length]);
        screen.write_all(&chunk[..length])?;
        screen.flush()?;
    }
    if !watcher.at_line_start() {
        // It died in the middle of a line; what follows must not continue it.
        writeln!(screen)?;
    }
    let status = child.wait()?;
    let tally = watcher.finish(status.success());
    if !status.success() && !tally.explained {
        eprintln!("error: the test program ended with {status} without a failed test");
    }
    Ok(tally.counts)
}

/// The binary of a test target and its package folder, from cargo's messages.
fn built_test(messages: &str, tier: &str) -> Option<(PathBuf, PathBuf)> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(
        |message| {
            let wanted =
                message["reason"] == "compiler-artifact" && message["target"]["name"] == tier;
            let binary = message["executable"].as_str().filter(|_| wanted)?;
            let manifest = PathBuf::from(message["manifest_path"].as_str()?);
            Some((binary.into(), manifest.parent()?.to_path_buf()))
        },
    )
}

/// A gate must not pass because tests skipped themselves.
fn privileges_required() -> bool {
    let set = |name, value: &str| env::var_os(name).is_some_and(|found| found == *value);
    set("SOV_REQUIRE_PRIVILEGED", "1") || set("CI", "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_ordered_and_unknown_ones_listed() {
        let found = || ["cli", "zeta", "datapath"].map(str::to_owned).to_vec();
        assert_eq!(tiers(found(), None).unwrap(), ["unit", "datapath", "cli", "zeta"]);
        assert_eq!(tiers(found(), Some("cli")).unwrap(), ["cli"]);
        assert_eq!(tiers(Vec::new(), None).unwrap(), ["unit"]);
        let error = tiers(found(), Some("e2e")).unwrap_err().to_string();
        assert_eq!(error, "no tier `e2e`; there are: unit, datapath, cli, zeta");
    }

    #[test]
    fn test_binary_is_found_among_other_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"sov_tests"},"executable":null,"#,
            r#""manifest_path":"/w/tests/Cargo.toml"}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"e2e"},"executable":"/t/e2e-1","#,
            r#""manifest_path":"/w/tests/Cargo.toml"}"#,
        );
        assert_eq!(built_test(messages, "e2e"), Some(("/t/e2e-1".into(), "/w/tests".into())));
        assert_eq!(built_test(messages, "cli"), None);
    }
}
