//! Builds the kernel side and leaves it at `$OUT_DIR/sov.o` for `include_bytes_aligned!`.
//!
//! `core` for the BPF target is built from source, so the compiler needs its own library sources.
//! Two places are tried: the toolchain that runs this build, then the distribution's matched pair in
//! /usr/bin. `cargo xtask setup` provides one of them, and bpf-linker. `SOV_EBPF_OBJECT` names a
//! prebuilt object instead: lint-only and packaging machines need neither.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=SOV_EBPF_OBJECT");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let object = out.join("sov.o");
    if let Some(prebuilt) = env::var_os("SOV_EBPF_OBJECT") {
        println!("cargo:rerun-if-changed={}", Path::new(&prebuilt).display());
        fs::copy(&prebuilt, &object)?;
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for input in ["sov-ebpf", "sov-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let toolchain = Toolchain::find()?;
    let target_dir = out.join("ebpf-target");
    let run = toolchain
        .command()
        .current_dir(root.join("sov-ebpf"))
        .args(["build", "--package", "sov-ebpf", "--bin", "sov", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(&target_dir)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", toolchain.cargo.display()))?;
    if !run.status.success() {
        let log = String::from_utf8_lossy(&run.stderr);
        let hint = if log.contains("bpf-linker") {
            "\nbpf-linker is missing or cannot load LLVM; run `cargo xtask setup`"
        } else {
            ""
        };
        return Err(format!("building the kernel side failed:\n{log}{hint}").into());
    }
    fs::copy(target_dir.join("bpfel-unknown-none/release/sov"), object)?;
    Ok(())
}

/// A cargo, a rustc with its library sources, and the folder of the LLVM that bpf-linker loads.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    llvm: Option<PathBuf>,
}

impl Toolchain {
    fn find() -> Result<Self> {
        let cargo = PathBuf::from(env::var_os("CARGO").ok_or("CARGO is not set")?);
        let rustc = PathBuf::from(env::var_os("RUSTC").ok_or("RUSTC is not set")?);
        let own_llvm = sysroot(&rustc)?.join("lib");
        let system = Path::new("/usr/bin/rustc");
        let candidates = [(cargo, rustc), ("/usr/bin/cargo".into(), system.to_path_buf())];
        for (cargo, rustc) in candidates {
            if !rustc.exists() || !cargo.exists() {
                continue;
            }
            if sysroot(&rustc)?.join("lib/rustlib/src/rust/library/core").exists() {
                // The distribution's rustc keeps its LLVM elsewhere; any LLVM of the same major does.
                let llvm =
                    [own_llvm, "/usr/lib/llvm-22/lib".into()].into_iter().find(|dir| has_llvm(dir));
                return Ok(Self { cargo, rustc, llvm });
            }
        }
        Err("no compiler with its library sources (rust-src) was found: run `cargo xtask setup`, \
             or name a prebuilt object in SOV_EBPF_OBJECT"
            .into())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        // cargo hands its own choices to build scripts; none of them fits another target.
        for (key, _) in env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_") && name != "CARGO_HOME" && !name.contains("REGISTRIES")
                || name == "RUSTC_WRAPPER"
                || name == "RUSTC_WORKSPACE_WRAPPER"
                || name == "RUSTFLAGS"
                || name == "TARGET"
            {
                command.env_remove(&key);
            }
        }
        let flags = [
            "--cfg=bpf_target_arch=\"x86_64\"",
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            // 32-bit jumps and ALU32: kernel 5.1 and later.
            "-Ctarget-cpu=v3",
        ];
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| "x86_64".into());
        let flags = flags.join("\x1f").replace("x86_64", &arch);
        let mut path = OsString::from(tools().join("bin"));
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        command
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("PATH", path);
        if let Some(llvm) = &self.llvm {
            command.env("LD_LIBRARY_PATH", llvm);
        }
        command
    }
}

/// Where `cargo xtask setup` puts bpf-linker.
fn tools() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    cache.or(home).unwrap_or_else(|| "/root/.cache".into()).join("sov/tools")
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    let run = Command::new(rustc).args(["--print", "sysroot"]).output()?;
    Ok(PathBuf::from(String::from_utf8(run.stdout)?.trim()))
}

fn has_llvm(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libLLVM")))
    })
}
