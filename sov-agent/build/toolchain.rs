//! Finds what builds the kernel side: a compiler with its library sources, and the LLVM for bpf-linker.
//!
//! Compiled into two programs, `sov-agent/build.rs` and xtask, so that what `cargo xtask setup`
//! provides is exactly what the build looks for. Uses std alone; looks, never installs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The LLVM that the pinned bpf-linker speaks. Bitcode of a newer LLVM cannot be read by it.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// The rustup toolchain that setup installs where the running one has another LLVM.
pub(crate) const PINNED_TOOLCHAIN: &str = "1.95.0";

/// A linker script of the same name lies beside the real library; it is a few bytes long.
const SMALLEST_LIBRARY: u64 = 1 << 20;

/// A compiler and what matters about it here.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    pub sysroot: PathBuf,
    /// Target triple of the machine, as rustc names it.
    pub host: String,
    pub release: String,
    pub llvm_major: u32,
    pub has_sources: bool,
}

impl Compiler {
    /// Asks a compiler about itself. `None`: it cannot be run, or there is no cargo beside it.
    pub(crate) fn inspect(rustc: &Path) -> Option<Self> {
        let sysroot = PathBuf::from(ask(rustc, &["--print", "sysroot"])?.trim());
        let version = ask(rustc, &["-vV"])?;
        let field = |name: &str| {
            version.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned())
        };
        // `rustc` may be a name on PATH or rustup's proxy: the sysroot has the real ones.
        let (cargo, rustc) = (sysroot.join("bin/cargo"), sysroot.join("bin/rustc"));
        (cargo.exists() && rustc.exists()).then_some(())?;
        Some(Self {
            has_sources: sysroot.join("lib/rustlib/src/rust/library/core").exists(),
            host: field("host:")?,
            release: field("release:")?,
            llvm_major: field("LLVM version:").as_deref().and_then(leading_number).unwrap_or(0),
            cargo,
            rustc,
            sysroot,
        })
    }

    /// What keeps this compiler from building the kernel side, if anything does.
    pub(crate) fn obstacle(&self) -> Option<String> {
        if !self.has_sources {
            return Some("has no library sources (rust-src)".into());
        }
        (self.llvm_major != LLVM_MAJOR)
            .then(|| format!("has LLVM {}; bpf-linker needs {LLVM_MAJOR}", self.llvm_major))
    }

    /// The LLVM library that bpf-linker is to load: `other`'s (the running toolchain), then this compiler's own, then the system's.
    pub(crate) fn llvm_library(&self, other: Option<&Self>) -> Option<PathBuf> {
        let arch = self.host.split('-').next().unwrap_or("x86_64");
        other
            .map(|other| other.sysroot.join("lib"))
            .into_iter()
            .chain([
                self.sysroot.join("lib"),
                format!("/usr/lib/llvm-{LLVM_MAJOR}/lib").into(),
                format!("/usr/lib/{arch}-linux-gnu").into(),
                "/usr/lib64".into(),
            ])
            .find_map(|dir| library_in(&dir))
    }
}

/// The compilers that are tried, in order: the running one, the distribution's, the pinned one of rustup.
pub(crate) fn candidates(running: &Path) -> Vec<Compiler> {
    let mut found: Vec<Compiler> = Vec::new();
    let rustup = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| home(".rustup"));
    let first = Compiler::inspect(running);
    let pinned = first.as_ref().zip(rustup).map(|(first, rustup)| {
        rustup.join(format!("toolchains/{PINNED_TOOLCHAIN}-{}/bin/rustc", first.host))
    });
    let rest = [Some(PathBuf::from("/usr/bin/rustc")), pinned].into_iter().flatten();
    let rest = rest.filter(|path| path.exists()).filter_map(|path| Compiler::inspect(&path));
    for compiler in first.into_iter().chain(rest) {
        if found.iter().all(|known| known.sysroot != compiler.sysroot) {
            found.push(compiler);
        }
    }
    found
}

/// The first candidate without an obstacle, or one line per candidate that says what it lacks.
pub(crate) fn choose(candidates: &[Compiler]) -> Result<&Compiler, String> {
    candidates.iter().find(|compiler| compiler.obstacle().is_none()).ok_or_else(|| {
        let mut text = String::from("no compiler here can build the kernel side:");
        for compiler in candidates {
            let why = compiler.obstacle().unwrap_or_default();
            text += &format!("\n  {} ({}) {why}", compiler.rustc.display(), compiler.release);
        }
        text
    })
}

/// Where `cargo xtask setup` puts bpf-linker.
pub(crate) fn tools() -> PathBuf {
    // The XDG rules: a path that is not absolute counts as unset.
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    cache.or_else(|| home(".cache")).unwrap_or_else(|| "/root/.cache".into()).join("sov/tools")
}

/// The LLVM library of the wanted major in a folder. Distributions keep several majors side by side.
pub(crate) fn library_in(dir: &Path) -> Option<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| is_llvm(&n.to_string_lossy())))
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() >= SMALLEST_LIBRARY))
        .collect();
    names.sort();
    names.into_iter().next()
}

/// `libLLVM.so.22.1`, `libLLVM-22.so`, `libLLVM.so.22.1-rust-1.95.0-stable`.
fn is_llvm(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libLLVM") else { return false };
    let version = rest.strip_prefix(".so.").or_else(|| rest.strip_prefix('-'));
    version.and_then(leading_number) == Some(LLVM_MAJOR)
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn home(folder: &str) -> Option<PathBuf> {
    env::var_os("HOME").map(|home| PathBuf::from(home).join(folder))
}

fn ask(rustc: &Path, args: &[&str]) -> Option<String> {
    let run = Command::new(rustc).args(args).output().ok()?;
    run.status.success().then(|| String::from_utf8_lossy(&run.stdout).into_owned())
}
