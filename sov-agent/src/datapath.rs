//! The kernel side as the agent sees it: load, publish images, attach, pin, read counters and events.
//!
//! The only module that names aya. It receives finished images and knows nothing of policies.

mod attach;
mod cgroup;
mod events;
mod guard;
mod interfaces;
mod loader;
mod pins;
mod slot;
mod stats;
mod sys;
mod xdp;

pub use attach::{Attached, Direction, Tc};
pub use cgroup::{Cgroup, CgroupRoot};
pub use events::{EventReader, KernelLog};
pub use interfaces::{Interface, InterfaceWatch, default_route_interfaces, interfaces};
pub use loader::{Datapath, Options};
pub use pins::Pins;
pub use slot::LiveImage;
pub use stats::{CounterRow, FlowEntry};
pub use sys::{TestRun, test_run};
pub use xdp::{XdpMode, XdpState, xdp_state};

use std::path::PathBuf;

/// What can go wrong between the agent and the kernel. Each says the object first.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("kernel programs: {problem}")]
    Load { problem: String },
    #[error("map {map}: {source}")]
    Map {
        map: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
    #[error("map {map} is not in the kernel object; build the agent again")]
    NoMap { map: &'static str },
    #[error("program {program}: {problem}")]
    Program { program: &'static str, problem: String },
    #[error("{hook} of {target}: {problem}")]
    Attach { hook: &'static str, target: String, problem: String },
    #[error("{path}: {source}")]
    Pin {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{path}: pinned by an agent in another network namespace; run the agent there, or `sov-agent \
         detach` first, or give each namespace a folder of its own (SOV_PIN_DIR)"
    )]
    OtherNamespace { path: PathBuf },
    #[error("{what}: {source}")]
    System {
        what: String,
        #[source]
        source: std::io::Error,
    },
}
