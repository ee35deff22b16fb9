//! `Status`: what a running agent says about itself. One struct for the control socket, `status` and the
//! metrics. Unknown fields are ignored when reading, so that an older command can ask a newer agent.

use serde::{Deserialize, Serialize};

use crate::flowlog::{
    journal::JournalState,
    record::{Host, Ledger, Mode, Response},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub agent: Agent,
    pub policy: Policy,
    pub tags: Vec<Tag>,
    pub datasets: Vec<Dataset>,
    pub interfaces: Vec<Interface>,
    /// Socket hooks; `None` = none attached.
    pub cgroup: Option<Cgroup>,
    pub ledger: Ledger,
    /// Kernel counters, those that are not zero.
    pub counters: Vec<Counter>,
    /// The same for packets that XDP judged; those that it passed may be in `counters` again.
    #[serde(default)]
    pub xdp_counters: Vec<Counter>,
    /// Polite refusals of tags with `response = "reject"`.
    #[serde(default)]
    pub rejects: Rejects,
    pub flow_table: FlowTable,
    pub journal: JournalState,
    /// What an operator should look at, in words.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub pid: u32,
    pub version: String,
    /// Of the kernel side, as in the pin path.
    pub abi: u32,
    /// Unix seconds.
    pub started: u64,
    pub uptime_seconds: u64,
    pub host: Host,
}

/// The live image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    /// SHA-256 of the policy and its data, lower-case hex.
    pub hash: String,
    pub generation: u32,
    /// When this generation went live, unix seconds.
    pub applied: u64,
    /// File that it came from; `None` = an embedded profile.
    pub source: Option<String>,
    /// What happens to traffic that no selector matches: a tag's name, or `None` = it passes.
    pub untagged: Option<String>,
    /// Why no new image could be made after a boot, while the last one is in force; `None` = all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    pub name: String,
    pub tier: String,
    pub mode: Mode,
    pub response: Response,
    pub rank: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    pub id: String,
    /// Unix seconds.
    pub built: u64,
    pub age_seconds: u64,
    /// Older than the policy's `max_data_age`, or past its own expiry.
    pub stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub links: Vec<Link>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    pub path: String,
    pub links: Vec<Link>,
}

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// As in the records: `tc_egress`, `connect4` …
    pub hook: String,
    /// How it is attached: `tcx`, `clsact`, `cgroup`; XDP: `native`, `generic`, `offload`.
    pub kind: String,
    /// Kernel link id; `None` for clsact, which has none.
    pub id: Option<u32>,
    /// Stays attached without the agent.
    pub pinned: bool,
}

/// Packets and bytes since the maps were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// `None` = untagged.
    pub tag: Option<String>,
    pub verdict: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

/// Resets and ICMP errors. Socket calls refused with EPERM are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejects {
    pub sent: u64,
    /// Blocked packets that got no answer because the limit was reached.
    pub suppressed: u64,
    /// The packet could not be turned into an answer.
    pub failed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTable {
    pub entries: u64,
    pub capacity: u64,
}

#[cfg(test)]
pub(crate) mod samples {
    //! A status for the tests of socket, command and metrics.

    use super::*;

    pub(crate) fn status() -> Status {
        let link = |hook: &str, kind: &str, id| Link {
            hook: hook.into(),
            kind: kind.into(),
            id,
            pinned: true,
        };
        Status {
            agent: Agent {
                pid: 4242,
                version: "0.1.0".into(),
                abi: 1,
                started: 1_795_466_760,
                uptime_seconds: 93_784,
                host: Host { id: "5c2f".into(), name: "node-1".into() },
            },
            policy: Policy {
                name: "two-tier-govcloud".into(),
                hash: "9f86d081884c7d65".into(),
                generation: 3,
                applied: 1_795_466_760,
                source: None,
                untagged: None,
                restored: None,
            },
            tags: vec![Tag {
                name: "koseki".into(),
                tier: "sovereign".into(),
                mode: Mode::Enforce,
                response: Response::Reject,
                rank: 3,
            }],
            datasets: vec![Dataset {
                id: "jp-snapshot".into(),
                built: 1_794_000_000,
                age_seconds: 1_466_760,
                stale: true,
            }],
            interfaces: vec![Interface {
                name: "eth0".into(),
                index: 2,
                links: vec![link("tc_egress", "tcx", Some(12))],
            }],
            cgroup: Some(Cgroup {
                path: "/sys/fs/cgroup".into(),
                links: vec![link("connect4", "cgroup", Some(13))],
            }),
            ledger: Ledger {
                blocked: 10,
                recorded: 4,
                aggregated: 5,
                suppressed: 0,
                lost: 1,
                table_full: 2,
            },
            counters: vec![
                Counter {
                    tag: Some("koseki".into()),
                    verdict: "block".into(),
                    reason: "foreign_control".into(),
                    packets: 10,
                    bytes: 600,
                },
                Counter {
                    tag: None,
                    verdict: "allow".into(),
                    reason: "no_policy".into(),
                    packets: 1_000_000,
                    bytes: 80_000_000,
                },
            ],
            xdp_counters: vec![Counter {
                tag: Some("koseki".into()),
                verdict: "block".into(),
                reason: "scope".into(),
                packets: 3,
                bytes: 180,
            }],
            rejects: Rejects { sent: 8, suppressed: 2, failed: 0 },
            flow_table: FlowTable { entries: 7, capacity: 65_536 },
            journal: JournalState {
                dir: "/var/lib/sov/flows".into(),
                segments: 2,
                bytes: 70_000_000,
                next_sequence: 4711,
                written: 100,
                ..JournalState::default()
            },
            warnings: vec!["jp-snapshot is older than 45 days".into()],
        }
    }
}
