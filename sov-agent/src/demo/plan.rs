//! What is sent, what should happen to it, and whether it did. Pure: no sockets, no clock.

mod sequence;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sov_common::verdict::{Reason, Verdict};

pub use sequence::{Group, groups, hello};

const POLICY: &str = include_str!("policy.toml");

/// A refused connection must be noticed sooner than this, in ns.
pub const NOTICE_LIMIT_NS: u64 = 10_000_000;

/// The demonstration's policy; without a cgroup v2 hierarchy its tags go by mark alone.
pub fn policy(cgroups: bool) -> String {
    if cgroups {
        return POLICY.to_owned();
    }
    let mut text = POLICY.to_owned();
    for tag in [Tag::Sovereign, Tag::Audited, Tag::General] {
        let cgroup = format!("{{ cgroup = \"/{}\" }}", tag.as_str());
        let mark = format!("{{ mark = \"{:#x}/0xf0\" }}", tag.mark());
        text = text.replace(&format!("{mark}, {cgroup}"), &mark).replace(&cgroup, &mark);
    }
    text
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    Untagged,
    General,
    Sovereign,
    Audited,
}

impl Tag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untagged => "untagged",
            Self::General => "general",
            Self::Sovereign => "sovereign",
            Self::Audited => "audited",
        }
    }

    /// Socket mark that selects the tag in the demonstration's policy.
    pub fn mark(self) -> u32 {
        match self {
            Self::Untagged => 0,
            Self::General => 0x10,
            Self::Audited => 0x20,
            Self::Sovereign => 0x30,
        }
    }

    /// What the policy wants of the tag, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Untagged => "no tag: nothing is judged",
            Self::General => "located in Japan, whoever controls it",
            Self::Sovereign => "located in Japan and under Japanese control",
            Self::Audited => "as sovereign, audit mode: recorded, not stopped",
        }
    }
}

/// How a workload gets its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    Nothing,
    Mark,
    Cgroup,
}

impl Via {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "-",
            Self::Mark => "mark",
            Self::Cgroup => "cgroup",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Connects, sends, waits for the echo.
    Tcp,
    /// One datagram from an unconnected socket.
    Udp,
    /// One datagram from a socket that was connected before it was tagged: no socket hook sees it.
    LateUdp,
    /// Echo request from a raw socket, waits for the reply: no socket hook sees it.
    Icmp,
    /// An IP packet with UDP in it through a packet socket: no socket hook sees it.
    Frame,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::LateUdp => "late",
            Self::Icmp => "icmp",
            Self::Frame => "frame",
        }
    }

    /// What the short word means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Tcp => "connect",
            Self::Udp => "sendto of an unconnected socket",
            Self::LateUdp => "send of a socket that was tagged after its connect",
            Self::Icmp => "echo request of a raw socket",
            Self::Frame => "packet written straight to the interface",
        }
    }

    /// IP protocol number on the wire.
    pub fn protocol(self, v6: bool) -> u8 {
        match (self, v6) {
            (Self::Tcp, _) => 6,
            (Self::Icmp, false) => 1,
            (Self::Icmp, true) => 58,
            _ => 17,
        }
    }

    /// Destination port: tells the flows of one tag apart in the journal. 0 for ICMP.
    fn port(self, via: Via) -> u16 {
        let base = match self {
            Self::Tcp => 443,
            Self::Udp => 5300,
            Self::LateUdp => 5301,
            Self::Frame => 5302,
            Self::Icmp => return 0,
        };
        if via == Via::Cgroup { base + 8000 } else { base }
    }

    /// Whether the socket hooks see it, and the application therefore gets EPERM.
    pub fn has_socket_hook(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// Ports that the far side listens on.
pub const TCP_PORTS: [u16; 2] = [443, 8443];
pub const UDP_PORTS: [u16; 6] = [5300, 5301, 5302, 13300, 13301, 13302];

/// A place that traffic goes to; its addresses are real ones of the embedded data.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub what: &'static str,
    /// For narrow tables.
    pub short: &'static str,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    general: Reason,
    sovereign: Reason,
}

pub const PLACES: [Place; 4] = [
    Place {
        what: "domestic cloud",
        short: "domestic",
        v4: Ipv4Addr::new(27, 133, 128, 1),
        v6: Ipv6Addr::new(0x2401, 0x2500, 0, 0, 0, 0, 0, 1),
        general: Reason::TierMatch,
        sovereign: Reason::TierMatch,
    },
    Place {
        what: "US cloud, Tokyo region",
        short: "US in Tokyo",
        v4: Ipv4Addr::new(54, 250, 0, 1),
        v6: Ipv6Addr::new(0x2406, 0xda14, 0, 0, 0, 0, 0, 1),
        general: Reason::TierMatch,
        sovereign: Reason::ForeignControl,
    },
    Place {
        what: "service in North America",
        short: "America",
        v4: Ipv4Addr::new(8, 8, 8, 8),
        v6: Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888),
        general: Reason::ForeignLocation,
        sovereign: Reason::ForeignLocation,
    },
    Place {
        what: "hosting in Germany",
        short: "Germany",
        v4: Ipv4Addr::new(5, 9, 0, 1),
        v6: Ipv6Addr::new(0x2a01, 0x04f8, 0, 0, 0, 0, 0, 1),
        general: Reason::ForeignLocation,
        sovereign: Reason::ForeignLocation,
    },
];
const DOMESTIC: usize = 0;
const TOKYO: usize = 1;
const AMERICA: usize = 2;

/// One thing that a workload tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Source port or ICMP identifier: the far side counts arrivals by it. Unique in a run.
    pub number: u16,
    pub tag: Tag,
    pub via: Via,
    pub kind: Kind,
    /// Index into [`PLACES`].
    pub place: usize,
    pub destination: IpAddr,
    pub port: u16,
}

/// What should happen: `None` = no tag, nothing is judged.
pub type Expected = Option<(Verdict, Reason)>;

impl Probe {
    /// Stated here by hand, not asked of the classifier.
    pub fn expected(&self) -> Expected {
        let place = PLACES.get(self.place)?;
        let (reason, block) = match self.tag {
            Tag::Untagged => return None,
            Tag::General => (place.general, Verdict::Block),
            Tag::Sovereign => (place.sovereign, Verdict::Block),
            Tag::Audited => (place.sovereign, Verdict::WouldBlock),
        };
        Some((if reason == Reason::TierMatch { Verdict::Allow } else { block }, reason))
    }

    /// Whether it should reach the far side.
    pub fn should_arrive(&self) -> bool {
        self.expected().is_none_or(|(verdict, _)| verdict != Verdict::Block)
    }
}

/// What the workload saw of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Errno by name; `None` = no error.
    pub error: Option<String>,
    /// The far side answered (TCP echo, ICMP reply).
    pub answered: bool,
    /// From the call to its result, ns.
    pub nanoseconds: u64,
}

/// What happened, from three sides: the workload, the far side, the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub seen: Seen,
    /// Packets that the far side counted.
    pub arrived: u64,
    /// Verdict and reason: in the journal for what is blocked (or would be), by the kernel's counters
    /// for what passes.
    pub record: Expected,
}

/// Every way in which what was observed is not what was expected; empty = all as wished.
pub fn differences(probe: &Probe, observed: &Observed, socket_hooks: bool) -> Vec<String> {
    let mut found = Vec::new();
    let (expected, seen) = (probe.expected(), &observed.seen);
    if observed.record != expected {
        found.push(format!("on record: {}, expected {}", words(observed.record), words(expected)));
    }
    if !probe.should_arrive() {
        if observed.arrived != 0 {
            found.push(format!("{} packets leaked", observed.arrived));
        }
        if seen.answered {
            found.push("the far side answered".into());
        }
        if probe.kind.has_socket_hook() && socket_hooks {
            if seen.error.as_deref() != Some("EPERM") {
                found.push(format!(
                    "expected EPERM, got {}",
                    seen.error.as_deref().unwrap_or("no error")
                ));
            } else if seen.nanoseconds >= NOTICE_LIMIT_NS {
                found.push(format!("EPERM came after {:.1} ms", seen.nanoseconds as f64 / 1e6));
            }
        }
        return found;
    }
    if observed.arrived == 0 {
        found.push("nothing arrived".into());
    }
    if let Some(error) = &seen.error {
        found.push(format!("the application got {error}"));
    }
    if matches!(probe.kind, Kind::Tcp | Kind::Icmp) && !seen.answered {
        found.push("no answer came back".into());
    }
    found
}

/// `block foreign_control`, or `-` for traffic that is not judged.
pub fn words(verdict: Expected) -> String {
    verdict.map_or_else(|| "-".into(), |(v, r)| format!("{} {}", v.as_str(), r.as_str()))
}

#[cfg(test)]
mod tests;
