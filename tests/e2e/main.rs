//! End to end: the real binary in a namespace, real packets, counted where they arrive.
//!
//! The agent's socket hooks sit at the root of the machine's cgroup tree, so that two agents at once
//! would judge each other's traffic: these tests take turns.

mod boot;
mod continuity;
mod gateway;
mod hotplug;
mod identity;
mod japan;
mod modes;
mod ocsf;
mod records;
mod reject;
mod restarts;
mod wire;

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// One test at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a frame may be on its way between two namespaces.
const WAIT: Duration = Duration::from_millis(30);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Places in the embedded data, one of each family. `japan.rs` proves what is said of them here.
mod place {
    /// Located and controlled in Japan (Sakura Internet).
    pub(crate) const DOMESTIC: [&str; 2] = ["27.133.128.1", "2001:e40::1"];
    /// Located in Japan, controlled from the United States (Amazon).
    pub(crate) const FOREIGN_CONTROL: [&str; 2] = ["1.178.64.1", "2406:da00:4000::1"];
    /// Located elsewhere.
    pub(crate) const ABROAD: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];
}

/// One tier, and the tags that the caller adds.
fn policy(mode: &str, tags: &str) -> String {
    format!(
        r#"
version = 1
name = "e2e"

[defaults]
mode = "{mode}"

[[zone]]
name = "site"
prefixes = ["10.0.0.0/8", "fd00::/8"]

[[tier]]
name = "sovereign"
location = ["JP"]
control = ["JP"]
zones = ["site"]

{tags}
"#
    )
}

/// A tag of the tier above.
fn tag(name: &str, rank: u32, select: &str) -> String {
    format!(
        "[[tag]]\nname = \"{name}\"\ntier = \"sovereign\"\nrank = {rank}\nselect = [ {{ {select} }} ]\n"
    )
}
