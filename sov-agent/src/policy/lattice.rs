//! The rank lattice: a tag of higher rank never reaches more than one of lower rank.
//!
//! Proved over every class of the compiled policy, every port and every later time; `mode` does not
//! matter, for a tag in audit mode may be enforced tomorrow. Equal ranks are not compared.

use super::{
    diagnostic::Diagnostic,
    image::{DecisionSpec, ImageSpec},
    meta::PolicyMeta,
    model::{Policy, Tag},
    reach::{Sample, escape},
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Adds an error with a witness for every pair of tiers that breaks the order.
pub(super) fn check(
    findings: &mut Vec<Diagnostic>,
    policy: &Policy,
    spec: &ImageSpec,
    meta: &PolicyMeta,
    now: u64,
) {
    let mut told: HashMap<(usize, usize), ()> = HashMap::new();
    for high in &policy.tags {
        for low in policy.tags.iter().filter(|low| low.rank.value < high.rank.value) {
            replies(findings, high, low);
            let tiers = (meta.tier_index(&high.tier.value), meta.tier_index(&low.tier.value));
            let (Some(a), Some(b)) = tiers else { continue };
            if a == b || told.contains_key(&(a, b)) {
                continue;
            }
            let rows = (&spec.decisions[a], &spec.decisions[b]);
            if let Some(found) = witness(spec, rows.0, rows.1, now) {
                told.insert((a, b), ());
                findings.push(report(high, low, &found, meta));
            }
        }
    }
}

fn replies(findings: &mut Vec<Diagnostic>, high: &Tag, low: &Tag) {
    if high.replies.value && !low.replies.value {
        let message = format!(
            "`{}` may answer everyone, `{}` of lower rank may not",
            high.name.value, low.name.value
        );
        findings.push(
            Diagnostic::warning("rank-replies", high.replies.span.clone(), message)
                .help("replies carry data out too: a higher rank should not be freer"),
        );
    }
}

/// An address and traffic that `a` lets through and `b` does not.
struct Witness<'s> {
    address: IpAddr,
    sample: Sample,
    time: u64,
    now: u64,
    inner: &'s DecisionSpec,
    outer: &'s DecisionSpec,
}

fn witness<'s>(
    spec: &ImageSpec,
    a: &'s [DecisionSpec],
    b: &'s [DecisionSpec],
    now: u64,
) -> Option<Witness<'s>> {
    for (class, (inner, outer)) in a.iter().zip(b).enumerate() {
        if let Some((sample, time)) = escape(inner, outer, now) {
            let v4 = spec.v4.iter().find(|i| usize::from(i.1) == class);
            let v4 = v4.map(|i| IpAddr::V4(Ipv4Addr::from_bits(i.0)));
            let v6 = || spec.v6.iter().find(|i| usize::from(i.1) == class);
            let address = v4.or_else(|| v6().map(|i| IpAddr::V6(Ipv6Addr::from_bits(i.0))))?;
            return Some(Witness { address, sample, time, now, inner, outer });
        }
    }
    None
}

fn report(high: &Tag, low: &Tag, found: &Witness<'_>, meta: &PolicyMeta) -> Diagnostic {
    let place = found.sample.at(found.address);
    let later = if found.time > found.now {
        format!(" once an exception has ended (unix time {})", found.time)
    } else {
        String::new()
    };
    let message = format!(
        "`{}` (rank {}) reaches {place}{later}, `{}` (rank {}) does not",
        high.name.value, high.rank.value, low.name.value, low.rank.value
    );
    let why = |decision: &DecisionSpec| {
        let last = super::reach::speak(decision, found.sample, found.time);
        match meta.rule(last.rule) {
            Some(rule) => format!("{} (line {})", last.reason.as_str(), rule.line),
            None => last.reason.as_str().to_owned(),
        }
    };
    let help = format!(
        "tier `{}` says {}, tier `{}` says {}; let the lower rank reach it too, or swap the ranks",
        high.tier.value,
        why(found.inner),
        low.tier.value,
        why(found.outer)
    );
    Diagnostic::error("rank", high.rank.span.clone(), message)
        .help(help)
        .other(low.rank.span.clone(), "the lower rank")
}
