//! The command line: global options and the list of verbs. One file per verb, each with `Args` and `run`.
//!
//! Verbs parse arguments, call the library and print. They decide nothing about traffic.
//!
//! Adding a verb takes three lines here: the `mod`, the variant, the match arm.

use std::process::ExitCode;

mod census;
pub mod check;
pub mod demo;
pub mod detach;
pub mod doctor;
pub mod explain;
pub mod exposure;
pub mod flows;
pub mod inputs;
pub mod logging;
pub mod lookup;
pub mod output;
pub mod plan;
pub mod prove;
pub mod run;
pub mod status;

/// Done, or everything is as wished.
pub const OK: u8 = 0;
/// A finding: would block, check failed, difference, something needed is missing.
pub const FINDING: u8 = 1;
/// Usage or environment error.
pub const USAGE: u8 = 2;

/// Stops tagged traffic in the kernel unless policy allows where it goes and who controls that place.
#[derive(clap::Parser, Debug)]
#[command(name = "sov-agent", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done or all as wished, 1 finding, 2 usage or environment error."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every verb accepts, before or after its name.
#[derive(clap::Args, Clone, Debug)]
pub struct Global {
    /// How data are written to stdout; json is one document, or JSON lines where it streams
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub format: Format,
    /// When text is coloured; auto asks the terminal and NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// More messages on stderr: -v information, -vv debugging, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Guards this host: attaches, enforces, records
    Run(run::Args),
    /// Shows the main job end to end in private network namespaces
    Demo(demo::Args),
    /// Removes the programs that a stopped agent left in force
    Detach(detach::Args),
    /// Whether a policy may be used, and everything that is wrong with it
    Check(check::Args),
    /// What a policy would change, exactly: prefixes, countries, operators
    Plan(plan::Args),
    /// Whether a policy only shrinks, only expands, never reaches a country; a counter-example if not
    Prove(prove::Args),
    /// What tags may reach, by location, control and operator
    Exposure(exposure::Args),
    /// What the policy says about destinations, and why
    Explain(explain::Args),
    /// What this host lacks for enforcement, each with the fix
    Doctor(doctor::Args),
    /// Shows and follows the flow log
    Flows(flows::Args),
    /// What the data say about addresses: location, operator, who controls it
    Lookup(lookup::Args),
    /// What the running agent says about itself
    Status(status::Args),
}

impl Cli {
    /// Runs the verb that was asked for.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let global = &self.global;
        match &self.command {
            Command::Run(args) => run::run(args, global),
            Command::Demo(args) => demo::run(args, global),
            Command::Detach(args) => detach::run(args, global),
            Command::Check(args) => check::run(args, global),
            Command::Plan(args) => plan::run(args, global),
            Command::Prove(args) => prove::run(args, global),
            Command::Exposure(args) => exposure::run(args, global),
            Command::Explain(args) => explain::run(args, global),
            Command::Doctor(args) => doctor::run(args, global),
            Command::Flows(args) => flows::run(args, global),
            Command::Lookup(args) => lookup::run(args, global),
            Command::Status(args) => status::run(args, global),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn globals_are_accepted_on_both_sides_of_the_verb() {
        for line in [
            ["sov-agent", "--format", "json", "-v", "doctor"],
            ["sov-agent", "doctor", "-v", "--format", "json"],
        ] {
            let cli = Cli::try_parse_from(line).expect("parses");
            assert_eq!((cli.global.format, cli.global.verbose), (Format::Json, 1));
        }
    }

    #[test]
    fn every_verb_shows_examples() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", verb.get_name());
        }
    }
}
