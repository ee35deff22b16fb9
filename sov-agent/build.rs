//! Builds the kernel side and leaves it at `$OUT_DIR/sov.o` for `include_bytes_aligned!`.
//!
//! `core` for the BPF target is built from source, so the compiler needs its own library sources.
//! `build/toolchain.rs` says where one is looked for; `cargo xtask setup` provides it, and bpf-linker.
//! `SOV_EBPF_OBJECT` names a prebuilt object instead: lint-only and packaging machines need neither.

#[path = "build/ebpf.rs"]
mod ebpf;
#[path = "build/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() -> ebpf::Result<()> {
    println!("cargo:rerun-if-env-changed=SOV_EBPF_OBJECT");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let object = out.join("sov.o");
    if let Some(prebuilt) = env::var_os("SOV_EBPF_OBJECT") {
        println!("cargo:rerun-if-changed={}", Path::new(&prebuilt).display());
        fs::copy(&prebuilt, &object)?;
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target_dir = out.join("ebpf-target");
    fs::copy(ebpf::build("sov", &root, &out, &target_dir)?, object)?;
    // For sov-tests, whose measuring programs need the same `core`.
    println!("cargo:target_dir={}", target_dir.display());
    Ok(())
}
