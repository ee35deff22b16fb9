//! Developer commands: parses the verb and hands over. One file per verb; nothing is decided here.
//!
//! Depends on no project crate, so that set-up works before anything else builds.

mod bench;
mod dataset;
mod demo;
mod exec;
mod lint;
mod packages;
mod setup;
mod test;
/// What the readers of data files refuse (`dataset` compiles those readers).
#[path = "../../sov-agent/src/text.rs"]
#[allow(dead_code, reason = "the agent also shows such text")]
mod text;
mod tidy;
#[path = "../../sov-agent/build/toolchain.rs"]
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of the workspace")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; says each step and its reason, does nothing twice
    Setup,
    /// Set up, build the agent and run its demonstration as root
    Demo(demo::Args),
    /// Set up, then run all tests, or those of one tier
    Test(test::Args),
    /// Formatting, clippy on the host and on the BPF target, documentation, tidy
    Lint,
    /// Measure what a packet costs, beside what people use today; the report is in `target/bench`
    Bench(bench::Args),
    /// Make the world table that the agent embeds, from its pinned inputs
    Dataset(dataset::Args),
    /// Rules that no compiler checks: module boundaries, file headers and lengths, licences
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup => setup::run(packages::Use::Test).map(|()| ExitCode::SUCCESS),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lint => lint::run(),
        Verb::Bench(args) => bench::run(&args),
        Verb::Dataset(args) => dataset::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Tidy => tidy::run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
