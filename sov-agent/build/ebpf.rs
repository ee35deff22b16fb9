//! Runs the compiler for the BPF target. Compiled into the build scripts of sov-agent (the programs)
//! and of sov-tests (their measurement).

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use super::toolchain::{self, Compiler};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Builds one program of crate sov-ebpf below `target_dir` and returns its object. `out` is the build
/// script's own folder, `root` the workspace's.
pub(crate) fn build(program: &str, root: &Path, out: &Path, target_dir: &Path) -> Result<PathBuf> {
    for input in ["sov-ebpf", "sov-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    // Setup may have provided what was missing: look again when it has.
    println!("cargo:rerun-if-changed={}", toolchain::tools().display());
    println!("cargo:rerun-if-env-changed=XDG_CACHE_HOME");
    let toolchain = Toolchain::find(out)?;
    let run = toolchain
        .command()
        .current_dir(root.join("sov-ebpf"))
        .args(["build", "--package", "sov-ebpf", "--bin", program, "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", toolchain.compiler.cargo.display()))?;
    if !run.status.success() {
        let log = String::from_utf8_lossy(&run.stderr);
        let hint = if log.contains("bpf-linker") {
            "\nbpf-linker is missing or cannot load LLVM: run `cargo xtask setup`"
        } else {
            ""
        };
        // Not through the returned error: its line breaks would be escaped.
        eprintln!("{log}{hint}");
        return Err("building the kernel side failed, see above".into());
    }
    Ok(target_dir.join("bpfel-unknown-none/release").join(program))
}

/// The compiler that builds the kernel side, and a folder that holds one LLVM and nothing else.
struct Toolchain {
    compiler: Compiler,
    llvm: Option<PathBuf>,
}

impl Toolchain {
    fn find(out: &Path) -> Result<Self> {
        let running = PathBuf::from(env::var_os("RUSTC").ok_or("RUSTC is not set")?);
        let candidates = toolchain::candidates(&running);
        let compiler = match toolchain::choose(&candidates) {
            Ok(compiler) => compiler.clone(),
            Err(why) => {
                eprintln!("{why}");
                return Err(
                    "run `cargo xtask setup`, or name a prebuilt object in SOV_EBPF_OBJECT".into(),
                );
            }
        };
        // bpf-linker opens the first LLVM that its folder lists, whatever its version.
        let llvm = match compiler.llvm_library(candidates.first()) {
            Some(library) => {
                let dir = out.join("llvm");
                fs::create_dir_all(&dir)?;
                let link = dir.join("libLLVM.so");
                match fs::remove_file(&link) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                    _ => symlink(library, link)?,
                }
                Some(dir)
            }
            None => None,
        };
        Ok(Self { compiler, llvm })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.compiler.cargo);
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
        let mut path = OsString::from(toolchain::tools().join("bin"));
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        command
            .env("RUSTC", &self.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("PATH", path);
        if let Some(llvm) = &self.llvm {
            command.env("LD_LIBRARY_PATH", llvm);
        }
        command
    }
}
