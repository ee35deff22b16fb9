//! `lint`: formatting, clippy for the host and for the BPF target, documentation, then tidy.
//!
//! Every check runs, also after a failed one; the closing line names those that failed.

use std::{
    env,
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{
    exec, setup, tidy,
    toolchain::{self, Compiler},
    workspace,
};

pub(crate) fn run() -> Result<ExitCode> {
    setup::build_tools()?;
    setup::lint_tools()?;
    let mut failed = Vec::new();
    let mut check = |name: &'static str, good: bool| {
        if !good {
            failed.push(name);
        }
    };

    exec::step("formatting", "one layout, no discussion");
    check("fmt", exec::succeeds(cargo().args(["fmt", "--all", "--check"]))?);

    exec::step("clippy", "all targets of the host, warnings are errors");
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    check("clippy", exec::succeeds(&mut clippy)?);

    exec::step("the BPF target", "the host build leaves the kernel side's code out");
    check("bpf", exec::succeeds(&mut bpf_check()?)?);

    exec::step("documentation", "broken links are errors");
    let mut doc = cargo();
    // xtask compiles single files of the agent, whose links lead to modules that it does not have.
    doc.args(["doc", "--workspace", "--exclude", "xtask", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    check("doc", exec::succeeds(&mut doc)?);

    exec::step("tidy", "the rules that no compiler checks");
    check("tidy", tidy::run()? == ExitCode::SUCCESS);

    if failed.is_empty() {
        eprintln!("lint: all checks passed");
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("lint: failed: {}", failed.join(", "));
        Ok(ExitCode::FAILURE)
    }
}

fn cargo() -> Command {
    let mut command = exec::cargo();
    command.current_dir(workspace::root());
    command
}

/// Clippy for the kernel side; rustc's own lints where no compiler with library sources has a clippy.
fn bpf_check() -> Result<Command> {
    let candidates = toolchain::candidates(&setup::running_compiler());
    // Nothing is linked, so any LLVM will do.
    let able = |compiler: &&Compiler| {
        compiler.has_sources && compiler.sysroot.join("bin/clippy-driver").exists()
    };
    let (compiler, verb) = match candidates.iter().find(able) {
        Some(compiler) => (compiler, "clippy"),
        None => {
            eprintln!("   rustc's lints only: no compiler here has both clippy and rust-src");
            (toolchain::choose(&candidates).map_err(anyhow::Error::msg)?, "check")
        }
    };
    let arch = compiler.host.split('-').next().unwrap_or("x86_64");
    let target = workspace::target_folder(&workspace::members()?)?.join("lint-bpf");
    let mut command = Command::new(&compiler.cargo);
    command
        .current_dir(workspace::root().join("sov-ebpf"))
        .args([verb, "--package", "sov-ebpf", "--bin", "sov", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &compiler.rustc)
        .env("RUSTFLAGS", format!("-D warnings --cfg=bpf_target_arch=\"{arch}\""));
    // Clippy's driver is found beside cargo, not on a PATH that leads to another toolchain.
    let mut path = OsString::from(compiler.sysroot.join("bin"));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    command.env("PATH", path);
    Ok(command)
}
