//! Selectors to numbers: what the kernel compares.

use super::{
    Environment,
    laminar::{self, NONE, Range},
};
use crate::policy::{
    image::SelectorSpec,
    model::{Policy, Selector},
};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::HashMap;

/// A selector that names something this host does not have (yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unresolved {
    pub tag: String,
    /// `cgroup` or `interface`.
    pub kind: &'static str,
    /// Cgroup path or interface name.
    pub name: String,
}

/// `slots` by tag name.
pub(super) fn resolve(
    policy: &Policy,
    slots: &HashMap<&str, u8>,
    env: &Environment,
) -> (SelectorSpec, Vec<Unresolved>) {
    let mut spec = SelectorSpec::default();
    let mut unresolved = Vec::new();
    let mut sources: Vec<(IpNet, u8, u8)> = Vec::new();
    for tag in &policy.tags {
        let Some(&slot) = slots.get(tag.name.value.as_str()) else { continue };
        let mut missing = |kind, name: &String| {
            let (tag, name) = (tag.name.value.clone(), name.clone());
            unresolved.push(Unresolved { tag, kind, name });
        };
        for selector in &tag.select {
            match &selector.value {
                Selector::Cgroup(path) => match env.cgroups.get(path) {
                    Some((id, depth)) => spec.cgroups.push((*id, *depth, slot)),
                    None => missing("cgroup", path),
                },
                Selector::Mark { value, mask } => spec.marks.push((*value, *mask, slot)),
                Selector::Source(net) => sources.push((*net, tag.rank.value, slot)),
                Selector::Dscp(dscp) => spec.dscps.push((*dscp, slot)),
                Selector::Vlan(vlan) => spec.vlans.push((*vlan, slot)),
                Selector::Interface(name) => match env.interfaces.get(name) {
                    Some(index) => spec.interfaces.push((*index, slot)),
                    None => missing("interface", name),
                },
                Selector::Uid(uid) => spec.uids.push((*uid, slot)),
            }
        }
    }
    spec.sources_v4 = (source_intervals(&sources, false).into_iter())
        .map(|(start, slot)| (start as u32, slot))
        .collect();
    spec.sources_v6 = source_intervals(&sources, true);
    (spec, unresolved)
}

/// Intervals of the winning tag: the highest rank of all prefixes around an address, then the lowest
/// slot. Empty without any prefix of the family.
fn source_intervals(sources: &[(IpNet, u8, u8)], v6: bool) -> Vec<(u128, Option<u8>)> {
    let mut placed: Vec<(Range, (u8, u8))> = (sources.iter())
        .filter(|(net, ..)| matches!(net, IpNet::V6(_)) == v6)
        .map(|(net, rank, slot)| (Range::from(*net), (u8::MAX - rank, *slot)))
        .collect();
    if placed.is_empty() {
        return Vec::new();
    }
    placed.sort_by_key(|(range, order)| (laminar::order(range), *order));
    // The best of equal prefixes comes first.
    placed.dedup_by_key(|(range, _)| *range);
    let ranges: Vec<_> = placed.iter().map(|(range, _)| *range).collect();
    let max = if v6 { u128::MAX } else { u128::from(u32::MAX) };
    let swept = laminar::sweep(&ranges, max);
    let mut best: Vec<(u8, u8)> = Vec::with_capacity(placed.len());
    for (index, (_, own)) in placed.iter().enumerate() {
        let parent = swept.parents[index];
        best.push(if parent == NONE { *own } else { (*own).min(best[parent]) });
    }
    let mut out: Vec<(u128, Option<u8>)> = Vec::new();
    for (start, range) in swept.intervals {
        let slot = (range != NONE).then(|| best[range].1);
        if out.last().is_none_or(|last| last.1 != slot) {
            out.push((start, slot));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rank_around_a_source_wins() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let sources = [
            (net("10.0.0.0/8"), 5, 0),
            (net("10.1.0.0/16"), 1, 1),
            (net("10.2.0.0/16"), 9, 2),
            (net("10.2.0.0/16"), 3, 3),
        ];
        let found = source_intervals(&sources, false);
        let start = |text: &str| u128::from(text.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
        assert_eq!(
            found,
            [
                (0, None),
                (start("10.0.0.0"), Some(0)),
                (start("10.2.0.0"), Some(2)),
                (start("10.3.0.0"), Some(0)),
                (start("11.0.0.0"), None),
            ]
        );
        assert!(source_intervals(&sources, true).is_empty());
    }
}
