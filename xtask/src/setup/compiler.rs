//! A compiler with its own library sources, from rustup where it can, else from the distribution.
//!
//! What counts as usable is decided in `toolchain.rs`, which the build itself uses.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use super::apt;
use crate::{
    exec,
    toolchain::{self, Compiler, LLVM_MAJOR, PINNED_TOOLCHAIN},
};

const WHY: &str = "the kernel side builds `core` for the BPF target from source";

/// The distribution's matched triples, the freshest naming first.
const DISTRIBUTION: &[[&str; 3]] =
    &[["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// The oldest compiler that the workspace builds with: `rust-version` of its manifest.
const OLDEST: [u32; 2] = [1, 95];

/// Makes sure that the build finds a compiler, and an LLVM for bpf-linker.
pub(crate) fn provide() -> Result<()> {
    let mut found = toolchain::candidates(&running());
    if toolchain::choose(&found).is_err() {
        for attempt in attempts(found.first(), exec::find_program("rustup").is_some()) {
            if let Err(error) = attempt.make() {
                eprintln!("   that did not work: {error:#}");
            }
            found = toolchain::candidates(&running());
            if toolchain::choose(&found).is_ok() {
                break;
            }
        }
    }
    let compiler = toolchain::choose(&found).map_err(|why| {
        anyhow!("{why}\ngive one of them its sources by hand, for example: rustup component add rust-src")
    })?;
    exec::have(&format!(
        "compiler {} with its library sources ({})",
        compiler.release,
        compiler.rustc.display()
    ));
    if compiler.llvm_library(found.first()).is_none() {
        let package = format!("libllvm{LLVM_MAJOR}");
        exec::step(&format!("installing {package}"), "bpf-linker loads LLVM from a shared library");
        apt::install(&[&package])?;
    }
    match compiler.llvm_library(found.first()) {
        Some(library) => exec::have(&format!("LLVM {LLVM_MAJOR} ({})", library.display())),
        None => bail!("no LLVM {LLVM_MAJOR} library was found for bpf-linker"),
    }
    Ok(())
}

/// Makes sure that the running cargo has a subcommand, from rustup or the distribution.
pub(crate) fn provide_component(component: &str, verb: &str, packages: &[&str]) -> Result<()> {
    let works = || exec::capture(exec::cargo().args([verb, "--version"])).is_ok();
    if works() {
        exec::have(component);
        return Ok(());
    }
    exec::step(&format!("installing {component}"), "`cargo xtask lint` runs it");
    if let Some(toolchain) = rustup_toolchain()
        && exec::succeeds(&mut rustup(&["component", "add", component, "--toolchain", &toolchain]))?
    {
        return Ok(());
    }
    if let Some(package) = packages.iter().find(|p| apt::candidate(p).is_some_and(|v| recent(&v))) {
        apt::install(&[package])?;
    }
    if works() {
        Ok(())
    } else {
        bail!("{component} for the running cargo cannot be installed here")
    }
}

/// One way to come by a compiler.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    /// Sources for the running toolchain, by its rustup name.
    Sources(String),
    /// A toolchain of rustup with the wanted LLVM, beside the running one.
    Pinned,
    Distribution,
}

/// The ways that make sense here, cheapest first.
fn attempts(running: Option<&Compiler>, has_rustup: bool) -> Vec<Attempt> {
    let mut ways = Vec::new();
    let name = running.and_then(|compiler| rustup_name(&compiler.sysroot));
    if has_rustup {
        let fits = running.is_some_and(|compiler| compiler.llvm_major == LLVM_MAJOR);
        match name {
            Some(name) if fits => ways.push(Attempt::Sources(name)),
            _ => ways.push(Attempt::Pinned),
        }
    }
    ways.push(Attempt::Distribution);
    ways
}

impl Attempt {
    fn make(&self) -> Result<()> {
        match self {
            Self::Sources(toolchain) => {
                exec::step(&format!("adding rust-src to toolchain {toolchain}"), WHY);
                exec::run(&mut rustup(&["component", "add", "rust-src", "--toolchain", toolchain]))
            }
            Self::Pinned => {
                let why = format!("{WHY}, and bpf-linker needs LLVM {LLVM_MAJOR}");
                exec::step(&format!("installing toolchain {PINNED_TOOLCHAIN} beside yours"), &why);
                let args = ["--profile", "minimal", "--component", "rust-src", "--no-self-update"];
                let mut install = rustup(&["toolchain", "install", PINNED_TOOLCHAIN]);
                exec::run(install.args(args))
            }
            Self::Distribution => from_distribution(),
        }
    }
}

fn from_distribution() -> Result<()> {
    let pick = || {
        DISTRIBUTION.iter().find(|names| {
            names.iter().all(|name| apt::candidate(name).is_some_and(|version| recent(&version)))
        })
    };
    let names = match pick() {
        Some(names) => names,
        None => {
            apt::update()?;
            let [major, minor] = OLDEST;
            pick().with_context(|| {
                format!(
                    "the distribution has no rustc of {major}.{minor} or later with its sources"
                )
            })?
        }
    };
    exec::step(&format!("installing {}", names.join(", ")), WHY);
    apt::install(names)
}

/// Whether a version of a distribution package (`1.96.0+dfsg1-1~deb12u2`) is new enough.
fn recent(version: &str) -> bool {
    // An epoch, `1:`, says nothing about the compiler.
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = version.split(['.', '+', '-', '~']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => [major, minor] >= OLDEST,
        _ => false,
    }
}

/// The compiler beside the cargo that runs us.
pub(crate) fn running() -> PathBuf {
    let beside = env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    beside.filter(|rustc| rustc.exists()).unwrap_or_else(|| "rustc".into())
}

fn rustup_toolchain() -> Option<String> {
    exec::find_program("rustup")?;
    rustup_name(&Compiler::inspect(&running())?.sysroot)
}

/// rustup's name for a toolchain: the last part of `…/toolchains/NAME`. `None`: not rustup's.
fn rustup_name(sysroot: &Path) -> Option<String> {
    let within = sysroot.parent()?.file_name()? == "toolchains";
    let name = sysroot.file_name()?.to_str()?;
    within.then(|| name.to_owned())
}

fn rustup(args: &[&str]) -> Command {
    // A mirror that never answers must not hold up the ways that follow.
    let mut command = Command::new("timeout");
    command.args(["90", "rustup"]).args(args).env_remove("RUST_BACKTRACE");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(sysroot: &str, llvm_major: u32, has_sources: bool) -> Compiler {
        let sysroot = PathBuf::from(sysroot);
        Compiler {
            cargo: sysroot.join("bin/cargo"),
            rustc: sysroot.join("bin/rustc"),
            host: "x86_64-unknown-linux-gnu".into(),
            release: "1.95.0".into(),
            sysroot,
            llvm_major,
            has_sources,
        }
    }

    const RUSTUP: &str = "/home/u/.rustup/toolchains/stable-x86_64-unknown-linux-gnu";

    #[test]
    fn rustup_machine_without_sources_tries_rustup_then_the_distribution() {
        let ways = attempts(Some(&compiler(RUSTUP, LLVM_MAJOR, false)), true);
        let name = "stable-x86_64-unknown-linux-gnu".to_owned();
        assert_eq!(ways, [Attempt::Sources(name), Attempt::Distribution]);
    }

    #[test]
    fn a_newer_llvm_asks_for_the_pinned_toolchain() {
        let ways = attempts(Some(&compiler(RUSTUP, LLVM_MAJOR + 1, true)), true);
        assert_eq!(ways, [Attempt::Pinned, Attempt::Distribution]);
    }

    #[test]
    fn the_distributions_cargo_alone_asks_the_distribution() {
        let ways = attempts(Some(&compiler("/usr", LLVM_MAJOR, false)), false);
        assert_eq!(ways, [Attempt::Distribution]);
        assert_eq!(attempts(None, false), [Attempt::Distribution]);
    }

    #[test]
    fn choice_takes_the_first_usable_and_else_names_every_obstacle() {
        let bare = compiler(RUSTUP, LLVM_MAJOR, false);
        let newer = compiler("/opt/new", LLVM_MAJOR + 1, true);
        let good = compiler("/usr", LLVM_MAJOR, true);
        let all = [bare.clone(), newer.clone(), good];
        assert_eq!(toolchain::choose(&all).map(|c| c.sysroot.clone()), Ok("/usr".into()));
        let text = toolchain::choose(&[bare, newer]).map(|_| ()).unwrap_err();
        assert!(text.contains("stable-x86_64") && text.contains("rust-src"), "{text}");
        assert!(text.contains("/opt/new") && text.contains("LLVM 23"), "{text}");
    }

    #[test]
    fn llvm_of_another_major_and_linker_scripts_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, len: u64| {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(len).unwrap();
        };
        put("libLLVM-14.so.1", 2 << 20);
        put("libLLVM.so.23.0", 2 << 20);
        put("libLLVM-22-rust-1.95.0-stable.so", 42);
        assert_eq!(toolchain::library_in(dir.path()), None);
        put("libLLVM.so.22.1-rust-1.95.0-stable", 2 << 20);
        let found = toolchain::library_in(dir.path()).unwrap();
        assert_eq!(found.file_name().unwrap(), "libLLVM.so.22.1-rust-1.95.0-stable");
    }

    #[test]
    fn package_versions_older_than_the_workspace_allows_are_refused() {
        assert!(recent("1.96.0+dfsg1-1~deb12u2"));
        assert!(recent("1:1.95.0-1"));
        assert!(!recent("1.63.0+dfsg1-2"));
        assert!(!recent("1.9.0") && !recent("") && !recent("unstable"));
    }

    #[test]
    fn oldest_is_the_manifests_rust_version() {
        let manifest =
            std::fs::read_to_string(crate::workspace::root().join("Cargo.toml")).unwrap();
        let [major, minor] = OLDEST;
        assert!(manifest.contains(&format!("rust-version = \"{major}.{minor}\"")));
    }
}
