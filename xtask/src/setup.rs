//! `setup`: provides what building and testing need, and says each step with its reason.
//!
//! Idempotent: what is there is left alone. Only the distribution's packages need root.

mod apt;
mod compiler;
mod linker;
mod python;

use std::time::Instant;

use anyhow::Result;

pub(crate) use compiler::running as running_compiler;
pub(crate) use python::ocsf;

use crate::{exec, packages};

/// The whole set-up: the build's part, then the packages of a use.
pub(crate) fn run(by: packages::Use) -> Result<()> {
    let start = Instant::now();
    build_tools()?;
    for package in packages::needed(by) {
        let there = package.program.is_some_and(|p| exec::find_program(p).is_some());
        if there || apt::is_installed(package.name) {
            exec::have(package.name);
        } else {
            exec::step(&format!("installing {}", package.name), package.why);
            match apt::install(&[package.name]) {
                Err(error) if package.optional => {
                    exec::step(
                        &format!("going on without {}", package.name),
                        &format!("{error:#}"),
                    );
                }
                outcome => outcome?,
            }
        }
    }
    eprintln!("set-up complete in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// What `cargo build` needs: a compiler with its library sources, an LLVM, bpf-linker.
pub(crate) fn build_tools() -> Result<()> {
    compiler::provide()?;
    linker::provide()
}

/// What `lint` needs besides: rustfmt and clippy.
pub(crate) fn lint_tools() -> Result<()> {
    compiler::provide_component("rustfmt", "fmt", &["rustfmt-web", "rustfmt"])?;
    compiler::provide_component("clippy", "clippy", &["rust-clippy-web", "rust-clippy"])
}
