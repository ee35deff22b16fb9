//! The policy read literally, one address at a time: slow, short, and sharing no code with the compiler.

use crate::{
    data::{
        dataset::Dataset,
        model::{Attributes, Control, ControlBasis, Location},
    },
    policy::{
        model::{Policy, Rule, Set, Target, Tier},
        parse::Parsed,
        reach::Sample,
    },
};
use sov_common::{
    scope::{scope_v4, scope_v6},
    verdict::{Reason, Scope},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Verdict, reason, and the rule by its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) allow: bool,
    pub(super) reason: Reason,
    pub(super) rule: Option<String>,
}

fn says(allow: bool, reason: Reason) -> Judgement {
    Judgement { allow, reason, rule: None }
}

pub(super) fn judge(
    parsed: &Parsed,
    data: &Dataset,
    tier: &Tier,
    address: IpAddr,
    to: Sample,
    now: u64,
) -> Judgement {
    let policy = &parsed.policy;
    let inner =
        |v4: u32| judge_one(parsed, data, tier, IpAddr::V4(Ipv4Addr::from_bits(v4)), to, now);
    if let IpAddr::V6(v6) = address {
        let bits = v6.to_bits();
        let nat64 = policy.nat64.iter().any(|net| net.value.contains(&v6));
        match v6.segments() {
            [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                return inner(bits as u32);
            }
            [0x2002, ..] => return inner((bits >> 80) as u32),
            [0x2001, 0, ..] => {
                let server = inner((bits >> 64) as u32);
                return if server.allow { inner(!(bits as u32)) } else { server };
            }
            _ if nat64 => return inner(bits as u32),
            _ => {}
        }
    }
    judge_one(parsed, data, tier, address, to, now)
}

fn judge_one(
    parsed: &Parsed,
    data: &Dataset,
    tier: &Tier,
    address: IpAddr,
    to: Sample,
    now: u64,
) -> Judgement {
    let scope = match address {
        IpAddr::V4(v4) => scope_v4(v4.to_bits()),
        IpAddr::V6(v6) => scope_v6(v6.to_bits()),
    };
    if scope == Scope::Loopback {
        return says(true, Reason::Scope);
    }
    let mut rules: Vec<(u8, bool, &Rule)> = Vec::new();
    for (allow, list) in [(false, &tier.deny), (true, &tier.allow)] {
        for rule in list {
            if let Target::Prefix(net) = rule.target.value
                && net.contains(&address)
            {
                rules.push((net.prefix_len(), allow, rule));
            }
        }
    }
    // Stable: rules of one kind and prefix keep the order of writing.
    rules.sort_by_key(|(length, allow, _)| (u8::MAX - length, *allow));
    let mut other_port = false;
    for (_, allow, rule) in rules {
        match speaks(rule, to, now) {
            Speech::Yes => return by_rule(parsed, rule, allow),
            Speech::OtherPort => other_port |= allow,
            Speech::Expired => {}
        }
    }
    let last = beyond_rules(parsed, data, tier, address, scope, to, now);
    match last.reason {
        Reason::DenyRule => last,
        _ if !last.allow && other_port => Judgement { reason: Reason::Port, ..last },
        _ => last,
    }
}

enum Speech {
    Yes,
    OtherPort,
    Expired,
}

fn speaks(rule: &Rule, to: Sample, now: u64) -> Speech {
    if rule.until.as_ref().is_some_and(|until| now >= u64::from(until.value)) {
        return Speech::Expired;
    }
    let matches = rule.ports.as_ref().is_none_or(|ports| {
        ports.iter().any(|p| p.protocol == to.protocol && p.low <= to.port && to.port <= p.high)
    });
    if matches { Speech::Yes } else { Speech::OtherPort }
}

fn by_rule(parsed: &Parsed, rule: &Rule, allow: bool) -> Judgement {
    let reason = match (allow, &rule.until) {
        (true, Some(_)) => Reason::Exception,
        (true, None) => Reason::AllowRule,
        (false, _) => Reason::DenyRule,
    };
    let line = parsed.source.position(rule.span.start).0;
    Judgement { allow, reason, rule: Some(format!("line {line}")) }
}

fn beyond_rules(
    parsed: &Parsed,
    data: &Dataset,
    tier: &Tier,
    address: IpAddr,
    scope: Scope,
    to: Sample,
    now: u64,
) -> Judgement {
    let zone = tier.zones.iter().enumerate().filter_map(|(order, name)| {
        let zone = parsed.policy.zones.iter().find(|zone| zone.name.value == name.value)?;
        let around = zone.prefixes.iter().filter(|net| net.value.contains(&address));
        Some((around.map(|net| net.value.prefix_len()).max()?, order, &name.value))
    });
    if let Some((_, _, name)) = zone.max() {
        return Judgement { allow: true, reason: Reason::Zone, rule: Some(format!("zone {name}")) };
    }
    if scope != Scope::Global {
        return says(false, Reason::Scope);
    }
    let attributes = data.lookup(address).attributes;
    for rule in &tier.deny {
        if let Target::Operator(id) = &rule.target.value
            && attributes.operator.as_deref() == Some(id)
            && matches!(speaks(rule, to, now), Speech::Yes)
        {
            return by_rule(parsed, rule, false);
        }
    }
    match matrix(tier, &attributes) {
        Ok(()) => says(true, Reason::TierMatch),
        Err(reason) => says(false, reason),
    }
}

fn matrix(tier: &Tier, to: &Attributes) -> Result<(), Reason> {
    if !tier.location.contains(&to.location) {
        return Err(match to.location {
            Location::Country(_) => Reason::ForeignLocation,
            _ => Reason::Unlocatable,
        });
    }
    let min = tier.min_sources.value;
    match to.location {
        Location::Country(_) if to.sources < min => return Err(Reason::Unlocatable),
        Location::Unknown if min > 1 => return Err(Reason::Unlocatable),
        _ => {}
    }
    if to.asn == 0 && tier.control != Set::Any {
        return Err(Reason::Unannounced);
    }
    if !tier.control.contains(&to.control) {
        return Err(match to.control {
            Control::Country(_) => Reason::ForeignControl,
            Control::Contested => Reason::ContestedControl,
            Control::Unknown => Reason::UnlistedOperator,
        });
    }
    if tier.catalog_only && to.control_basis != ControlBasis::Catalog {
        return Err(Reason::UnlistedOperator);
    }
    let listed = match (&tier.operators, to.operator.as_deref()) {
        (Set::Any, _) => true,
        (set, Some(operator)) => set.contains(&operator.to_owned()),
        (_, None) => false,
    };
    if listed { Ok(()) } else { Err(Reason::UnlistedOperator) }
}

/// First, last and the addresses beside them, of every prefix that a policy names.
pub(super) fn edges(policy: &Policy) -> Vec<IpAddr> {
    let zones = policy.zones.iter().flat_map(|zone| &zone.prefixes).map(|net| net.value);
    let rules = policy.tiers.iter().flat_map(|tier| tier.allow.iter().chain(&tier.deny));
    let rules = rules.filter_map(|rule| match rule.target.value {
        Target::Prefix(net) => Some(net),
        Target::Operator(_) => None,
    });
    let mut out = Vec::new();
    for net in zones.chain(rules) {
        for edge in [net.network(), net.broadcast()] {
            out.extend(around(edge));
        }
    }
    out
}

/// An address and its neighbours.
pub(super) fn around(address: IpAddr) -> [IpAddr; 3] {
    match address {
        IpAddr::V4(v4) => [0, 1, u32::MAX]
            .map(|step| IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_add(step)))),
        IpAddr::V6(v6) => [0, 1, u128::MAX]
            .map(|step| IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_add(step)))),
    }
}
