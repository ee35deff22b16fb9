//! Everything that is sent, in order.

use std::net::IpAddr;

use super::{AMERICA, DOMESTIC, Kind, PLACES, Probe, TOKYO, Tag, Via};

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
    plan.group(Tag::Audited, if cgroups { Via::Cgroup } else { Via::Mark });
    plan.add(Kind::Tcp, &all, true, true);
    plan.add(Kind::Udp, &[AMERICA], true, false);
    plan.add(Kind::Icmp, &[TOKYO], false, true);
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
