//! What a running agent holds: its own memory, and the kernel's for its maps.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use aya::maps::{MapInfo, loaded_maps};
use sov_tests::{
    agent::{Agent, Host},
    lab::{Lab, UPLINK},
};

use crate::{
    model::{Group, Section},
    progress::Progress,
    stats,
};

pub(crate) const MAPS: &str = "maps";
pub(crate) const STEADY: &str = "steady";
pub(crate) const PEAK: &str = "peak";

const MIB: f64 = 1_048_576.0;

/// The agent as `sov-agent run` starts it: embedded profile and data.
pub(crate) fn section(progress: &Progress) -> Section {
    progress.step("memory of a running agent");
    let lab = Lab::new().expect("namespaces");
    let host = Host::new().expect("a bpffs");
    let ids = || -> BTreeSet<u32> { maps().iter().map(MapInfo::id).collect() };
    let before = ids();
    let agent = Agent::start(&host, &lab.work, &["--interface", UPLINK]).expect("the agent starts");
    // The dust of starting settles.
    thread::sleep(Duration::from_secs(2));
    let mut own: Vec<(String, f64)> = maps()
        .iter()
        .filter(|map| !before.contains(&map.id()))
        .map(|map| (map.name_as_str().unwrap_or("?").to_owned(), locked(map)))
        .collect();
    own.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all = own.iter().map(|(_, bytes)| bytes).sum::<f64>();
    let mut kernel = vec![stats::single(MAPS, "all maps", all / MIB)];
    let named = own.iter().filter(|(_, bytes)| *bytes >= 4096.0);
    kernel.extend(named.map(|(name, bytes)| stats::single(name, name, bytes / MIB)));
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap_or_default();
    let process = [(STEADY, "VmRSS:", "resident"), (PEAK, "VmHWM:", "resident, highest so far")];
    let process = process.map(|(id, field, name)| match kib(&status, field) {
        Some(kib) => stats::single(id, name, kib / 1024.0),
        None => stats::absent(id, name, format!("no {field} in /proc")),
    });
    drop(agent);
    let group = |id: &str, title: &str, rows| Group {
        id: id.into(),
        title: title.into(),
        unit: "MiB".into(),
        base: String::new(),
        rows,
    };
    let about = [
        "One agent with the embedded profile and data on one interface, two seconds after it was ready. \
         Maps: what the kernel accounts for each (fdinfo, memlock), the image slot among them (no name, \
         or that of the inner map).",
        "Resident memory contains the pages of the program file that were touched.",
    ];
    Section {
        id: "memory".into(),
        title: "Memory".into(),
        about: about.map(str::to_owned).to_vec(),
        plots: vec![],
        groups: vec![
            group("memory.kernel", "Kernel memory by map", kernel),
            group("memory.agent", "The agent", process.to_vec()),
        ],
    }
}

fn maps() -> Vec<MapInfo> {
    loaded_maps().filter_map(Result::ok).collect()
}

/// Bytes that the kernel accounts for a map.
fn locked(map: &MapInfo) -> f64 {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let Ok(fd) = map.fd() else { return 0.0 };
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0.0)
}

fn kib(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
