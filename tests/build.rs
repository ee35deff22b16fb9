//! Builds the programs that measure the packet path and leaves them at `$OUT_DIR/sov-bench.o`.
//!
//! They share the agent's build folder: `core` for the BPF target is compiled once. Where the agent
//! was given a prebuilt object there is none, and the file is empty; the measurement then says so.

#[path = "../sov-agent/build/ebpf.rs"]
mod ebpf;
#[path = "../sov-agent/build/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() -> ebpf::Result<()> {
    println!("cargo:rerun-if-env-changed=SOV_EBPF_OBJECT");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let object = out.join("sov-bench.o");
    let Some(target_dir) = env::var_os("DEP_SOV_EBPF_TARGET_DIR") else {
        fs::write(object, [])?;
        return Ok(());
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::copy(ebpf::build("sov-bench", &root, &out, Path::new(&target_dir))?, object)?;
    Ok(())
}
