//! Builds the programs of the benchmark: `$OUT_DIR/sov-bench.o` measures the packet path, `sov-lab.o`
//! is the sink, floor and generator around it.
//!
//! They share the agent's build folder: `core` for the BPF target is compiled once. Where the agent
//! was given a prebuilt object there are none, and the files are empty; the measurement then says so.

#[path = "../sov-agent/build/ebpf.rs"]
mod ebpf;
#[path = "../sov-agent/build/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

const PROGRAMS: [&str; 2] = ["sov-bench", "sov-lab"];

fn main() -> ebpf::Result<()> {
    println!("cargo:rerun-if-env-changed=SOV_EBPF_OBJECT");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let Some(target_dir) = env::var_os("DEP_SOV_EBPF_TARGET_DIR") else {
        for program in PROGRAMS {
            fs::write(out.join(format!("{program}.o")), [])?;
        }
        return Ok(());
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for program in PROGRAMS {
        let object = ebpf::build(program, &root, &out, Path::new(&target_dir))?;
        fs::copy(object, out.join(format!("{program}.o")))?;
    }
    Ok(())
}
