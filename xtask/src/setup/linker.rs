//! bpf-linker, built by cargo into a folder of ours: no root, and no clash with one of the user's.

use std::process::Command;

use anyhow::Result;

use crate::{exec, toolchain};

/// The last line that speaks LLVM 22 through rustc's own library; 0.11 wants LLVM 23.
const VERSION: &str = "0.10.3";

pub(crate) fn provide() -> Result<()> {
    let root = toolchain::tools();
    let program = root.join("bin/bpf-linker");
    let version = Command::new(&program).arg("--version").output();
    let version = version.map(|run| String::from_utf8_lossy(&run.stdout).into_owned());
    if version.is_ok_and(|text| is_wanted(&text)) {
        exec::have(&format!("bpf-linker {VERSION} ({})", program.display()));
        return Ok(());
    }
    let why = format!("links the kernel side; goes to {}, about a minute", root.display());
    exec::step(&format!("building bpf-linker {VERSION}"), &why);
    let mut install = exec::cargo();
    install
        .args(["install", "--quiet", "bpf-linker", "--version", VERSION, "--locked", "--force"])
        .arg("--root")
        .arg(&root)
        // Not the workspace's: its settings are for our crates.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    exec::run(&mut install)
}

fn is_wanted(version: &str) -> bool {
    version.split_whitespace().nth(1) == Some(VERSION)
}

#[cfg(test)]
mod tests {
    use super::is_wanted;

    #[test]
    fn only_the_exact_version_counts() {
        assert!(is_wanted("bpf-linker 0.10.3\n"));
        assert!(!is_wanted("bpf-linker 0.10.31\n"));
        assert!(!is_wanted("bpf-linker 0.13.0\n"));
        assert!(!is_wanted(""));
    }
}
