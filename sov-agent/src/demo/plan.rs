//! What is sent, what should happen to it, and whether it did. Pure: no sockets, no clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sov_common::verdict::{Reason, Verdict};

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
        text = text.replace(&format!(", {{ cgroup = \"/{}\" }}", tag.as_str()), "");
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
            Self::LateUdp => "udp late",
            Self::Icmp => "icmp",
            Self::Frame => "frame",
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
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    general: Reason,
    sovereign: Reason,
}

pub const PLACES: [Place; 4] = [
    Place {
        what: "domestic cloud",
        v4: Ipv4Addr::new(27, 133, 128, 1),
        v6: Ipv6Addr::new(0x2401, 0x2500, 0, 0, 0, 0, 0, 1),
        general: Reason::TierMatch,
        sovereign: Reason::TierMatch,
    },
    Place {
        what: "US cloud, Tokyo region",
        v4: Ipv4Addr::new(54, 250, 0, 1),
        v6: Ipv6Addr::new(0x2406, 0xda14, 0, 0, 0, 0, 0, 1),
        general: Reason::TierMatch,
        sovereign: Reason::ForeignControl,
    },
    Place {
        what: "service in North America",
        v4: Ipv4Addr::new(8, 8, 8, 8),
        v6: Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888),
        general: Reason::ForeignLocation,
        sovereign: Reason::ForeignLocation,
    },
    Place {
        what: "hosting in Germany",
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

/// Probes of workloads that share a tag and how they got it; each group is one process.
#[derive(Clone, Debug)]
pub struct Group {
    pub tag: Tag,
    pub via: Via,
    pub probes: Vec<Probe>,
}

/// Everything that is sent, in order.
pub fn groups(ipv6: bool, cgroups: bool) -> Vec<Group> {
    let mut plan = Planner { number: 30_000, ipv6, groups: Vec::new() };
    let all = [0, 1, 2, 3];
    plan.group(Tag::Untagged, Via::Nothing);
    plan.add(Kind::Tcp, &all, true, true);
    plan.add(Kind::Udp, &[AMERICA], true, false);
    plan.add(Kind::Icmp, &[AMERICA], false, true);
    plan.group(Tag::General, Via::Mark);
    plan.add(Kind::Tcp, &all, true, true);
    plan.add(Kind::Udp, &[TOKYO, AMERICA], true, false);
    plan.add(Kind::Icmp, &[TOKYO, AMERICA], false, true);
    plan.group(Tag::Sovereign, Via::Mark);
    for kind in [Kind::Tcp, Kind::Udp, Kind::Icmp] {
        plan.add(kind, &all, true, true);
    }
    for kind in [Kind::LateUdp, Kind::Frame] {
        plan.add(kind, &[DOMESTIC, TOKYO], true, true);
    }
    if cgroups {
        plan.group(Tag::Sovereign, Via::Cgroup);
        plan.add(Kind::Tcp, &[DOMESTIC, TOKYO], true, true);
        plan.add(Kind::Udp, &[TOKYO], true, true);
    }
    plan.group(Tag::Audited, Via::Mark);
    plan.add(Kind::Tcp, &all, true, true);
    plan.add(Kind::Udp, &[AMERICA], true, false);
    plan.add(Kind::Icmp, &[TOKYO], false, true);
    if cgroups {
        plan.group(Tag::Audited, Via::Cgroup);
        plan.add(Kind::Tcp, &[AMERICA], true, true);
    }
    plan.groups
}

/// An untagged echo request to every address: whether the network works at all.
pub fn hello(ipv6: bool) -> Vec<Probe> {
    let mut plan = Planner { number: 29_000, ipv6, groups: Vec::new() };
    plan.group(Tag::Untagged, Via::Nothing);
    plan.add(Kind::Icmp, &[0, 1, 2, 3], true, true);
    plan.groups.into_iter().flat_map(|group| group.probes).collect()
}

struct Planner {
    number: u16,
    ipv6: bool,
    groups: Vec<Group>,
}

impl Planner {
    fn group(&mut self, tag: Tag, via: Via) {
        self.groups.push(Group { tag, via, probes: Vec::new() });
    }

    fn add(&mut self, kind: Kind, places: &[usize], v4: bool, v6: bool) {
        let Some(group) = self.groups.last_mut() else { return };
        for &index in places {
            let place = &PLACES[index];
            let addresses = [
                v4.then_some(IpAddr::V4(place.v4)),
                (v6 && self.ipv6).then_some(IpAddr::V6(place.v6)),
            ];
            for destination in addresses.into_iter().flatten() {
                self.number += 1;
                group.probes.push(Probe {
                    number: self.number,
                    tag: group.tag,
                    via: group.via,
                    kind,
                    place: index,
                    destination,
                    port: kind.port(group.via),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn find(tag: Tag, kind: Kind, place: usize) -> Probe {
        let all = groups(true, true).into_iter().flat_map(|g| g.probes);
        all.into_iter()
            .find(|p| (p.tag, p.kind, p.place) == (tag, kind, place))
            .expect("the plan has it")
    }

    fn good(probe: &Probe) -> Observed {
        let block = !probe.should_arrive();
        Observed {
            seen: Seen {
                error: block.then(|| "EPERM".into()),
                answered: !block,
                nanoseconds: 20_000,
            },
            arrived: u64::from(!block),
            record: probe.expected(),
        }
    }

    #[test]
    fn the_plan_covers_what_the_demonstration_promises() {
        let plan = groups(true, true);
        let probes: Vec<_> = plan.iter().flat_map(|g| &g.probes).collect();
        let numbers: HashSet<_> = probes.iter().map(|p| p.number).collect();
        assert_eq!(numbers.len(), probes.len(), "arrivals are counted by number");
        for tag in [Tag::Untagged, Tag::General, Tag::Sovereign, Tag::Audited] {
            for place in 0..PLACES.len() {
                for v6 in [false, true] {
                    let is = |p: &&&Probe| {
                        (p.tag, p.place, p.kind, p.destination.is_ipv6())
                            == (tag, place, Kind::Tcp, v6)
                    };
                    assert!(probes.iter().any(|p| is(&p)), "{tag:?} {place} {v6}");
                }
            }
        }
        for probe in probes {
            let open = TCP_PORTS.contains(&probe.port) || UDP_PORTS.contains(&probe.port);
            assert!(open || probe.kind == Kind::Icmp, "{probe:?}");
        }
        assert!(
            groups(false, true).iter().flat_map(|g| &g.probes).all(|p| p.destination.is_ipv4())
        );
        assert!(groups(true, false).iter().all(|g| g.via != Via::Cgroup));
    }

    #[test]
    fn expectations_are_those_of_the_issue() {
        let expect = |tag, place| words(find(tag, Kind::Tcp, place).expected());
        assert_eq!(expect(Tag::Untagged, AMERICA), "-");
        assert_eq!(expect(Tag::General, TOKYO), "allow tier_match");
        assert_eq!(expect(Tag::Sovereign, TOKYO), "block foreign_control");
        assert_eq!(expect(Tag::Sovereign, DOMESTIC), "allow tier_match");
        assert_eq!(expect(Tag::General, AMERICA), "block foreign_location");
        assert_eq!(expect(Tag::Audited, AMERICA), "would_block foreign_location");
    }

    #[test]
    fn every_difference_is_found() {
        for probe in groups(true, true).iter().flat_map(|g| &g.probes) {
            assert_eq!(differences(probe, &good(probe), true), Vec::<String>::new(), "{probe:?}");
        }
        let blocked = find(Tag::Sovereign, Kind::Tcp, TOKYO);
        let broken = |change: fn(&mut Observed), probe: &Probe| {
            let mut observed = good(probe);
            change(&mut observed);
            differences(probe, &observed, true).join("; ")
        };
        assert_eq!(broken(|o| o.arrived = 2, &blocked), "2 packets leaked");
        assert_eq!(broken(|o| o.seen.answered = true, &blocked), "the far side answered");
        assert_eq!(broken(|o| o.seen.error = None, &blocked), "expected EPERM, got no error");
        assert_eq!(
            broken(|o| o.seen.nanoseconds = NOTICE_LIMIT_NS, &blocked),
            "EPERM came after 10.0 ms"
        );
        assert_eq!(
            broken(|o| o.record = Some((Verdict::Block, Reason::ForeignLocation)), &blocked),
            "on record: block foreign_location, expected block foreign_control"
        );
        let allowed = find(Tag::Sovereign, Kind::Tcp, DOMESTIC);
        assert_eq!(broken(|o| o.arrived = 0, &allowed), "nothing arrived");
        assert_eq!(broken(|o| o.seen.answered = false, &allowed), "no answer came back");
        assert_eq!(
            broken(|o| o.record = None, &allowed),
            "on record: -, expected allow tier_match"
        );
        // Without socket hooks a lost packet is all that the application notices.
        let mut observed = good(&blocked);
        observed.seen.error = Some("ETIMEDOUT".into());
        assert!(differences(&blocked, &observed, false).is_empty());
    }

    #[test]
    fn without_cgroups_the_policy_names_none() {
        assert_eq!(policy(true).matches("cgroup").count(), 3);
        assert_eq!(policy(false).matches("cgroup").count(), 0);
    }
}
