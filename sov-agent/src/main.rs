//! The `sov-agent` binary: arguments, logging, exit code. Everything else is in the library.

use std::{io, process::ExitCode};

use clap::Parser;
use sov_agent::cli::{Cli, USAGE, logging};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Nothing is left to tell anyone when the terminal is gone.
            let _ = message.print();
            return ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(2));
        }
    };
    logging::init(cli.global.verbose);
    match cli.run() {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            logging::error(&format_args!("{error:#}"));
            ExitCode::from(USAGE)
        }
    }
}

/// The reader went away (`sov-agent flows | head`): that is how readers say "enough".
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
