//! Rules and zones: their ids, and what they say at each address before attributes are asked.

use super::{
    laminar::{self, Laminar, NONE, Range},
    matrix::Verdict,
};
use crate::policy::{
    diagnostic::{Diagnostic, Source, Span},
    image::{ChainEntry, Final, PortRange},
    meta::{RuleKind, RuleMeta},
    model::{Policy, Rule, Target},
};
use ipnet::IpNet;
use sov_common::{image::decision::MAX_CHAIN, verdict::Reason};
use std::collections::HashMap;

/// Above this many rules, rules that differ in their prefix only share an id (and so a class): every id
/// costs a class, and there are 65,520 of those.
const OWN_IDS: usize = 4096;

/// One rule or zone, in one tier.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) tier: usize,
    pub(crate) kind: RuleKind,
    /// What it says when it speaks; several where it has several port ranges.
    pub(crate) verdict: Verdict,
    /// Where it is written.
    pub(crate) span: Span,
}

/// All rules of a policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Prefix rules and zones, each with its prefix, in order of writing; denials of a tier first.
    pub(crate) entries: Vec<(IpNet, Entry)>,
    /// Denied operators.
    pub(crate) operators: Vec<(String, Entry)>,
    /// By id - 1.
    pub(crate) meta: Vec<RuleMeta>,
}

/// Numbers the rules. `Err` if there are more different ones than ids.
pub(crate) fn collect(policy: &Policy, source: &Source) -> Result<Rules, Box<Diagnostic>> {
    let count: usize = policy.tiers.iter().map(|tier| tier.allow.len() + tier.deny.len()).sum();
    let mut out = Rules::default();
    let mut ids = Ids { share: count > OWN_IDS, known: HashMap::new() };
    let zones: HashMap<&str, _> =
        policy.zones.iter().map(|zone| (zone.name.value.as_str(), zone)).collect();
    for (tier, written) in policy.tiers.iter().enumerate() {
        for (kind, rules) in [(RuleKind::Deny, &written.deny), (RuleKind::Allow, &written.allow)] {
            for rule in rules {
                let (kind, operator) = match &rule.target.value {
                    Target::Operator(id) => (RuleKind::OperatorDeny, Some(id.as_str())),
                    Target::Prefix(_) => (kind, None),
                };
                let likeness = Likeness {
                    tier,
                    kind,
                    operator,
                    ports: rule.ports.as_deref(),
                    until: rule.until.as_ref().map(|until| until.value),
                    words: [&rule.owner, &rule.ticket, &rule.reason],
                };
                let id = ids.give(&mut out.meta, likeness, &rule.span, || {
                    describe(rule, kind, &written.name.value, source)
                })?;
                let entry =
                    Entry { tier, kind, verdict: verdict(rule, kind, id), span: rule.span.clone() };
                match &rule.target.value {
                    Target::Prefix(net) => out.entries.push((*net, entry)),
                    Target::Operator(id) => out.operators.push((id.clone(), entry)),
                }
            }
        }
        for name in &written.zones {
            let Some(zone) = zones.get(name.value.as_str()) else { continue };
            let meta = RuleMeta {
                zone: Some(zone.name.value.clone()),
                ..RuleMeta::new(
                    RuleKind::Zone,
                    &written.name.value,
                    source.position(name.span.start).0,
                )
            };
            out.meta.push(meta);
            let id = number(&mut out.meta, &name.span)?;
            let end = Some(Final { allow: true, reason: Reason::Zone, rule: id });
            for prefix in &zone.prefixes {
                let verdict = Verdict { chain: Vec::new(), end };
                let span = prefix.span.clone();
                out.entries
                    .push((prefix.value, Entry { tier, kind: RuleKind::Zone, verdict, span }));
            }
        }
    }
    Ok(out)
}

fn describe(rule: &Rule, kind: RuleKind, tier: &str, source: &Source) -> RuleMeta {
    let mut meta = RuleMeta {
        owner: rule.owner.clone(),
        ticket: rule.ticket.clone(),
        reason: rule.reason.clone(),
        until: rule.until.as_ref().map(|until| until.value),
        ..RuleMeta::new(kind, tier, source.position(rule.span.start).0)
    };
    match &rule.target.value {
        Target::Prefix(net) => meta.prefix = Some(net.to_string()),
        Target::Operator(id) => meta.operator = Some(id.clone()),
    }
    meta
}

fn verdict(rule: &Rule, kind: RuleKind, id: u16) -> Verdict {
    let (allow, reason) = match (kind, &rule.until) {
        (RuleKind::Allow, Some(_)) => (true, Reason::Exception),
        (RuleKind::Allow, None) => (true, Reason::AllowRule),
        _ => (false, Reason::DenyRule),
    };
    let then = Final { allow, reason, rule: id };
    let until = rule.until.as_ref().map(|until| until.value);
    match (&rule.ports, until) {
        (None, None) => Verdict { chain: Vec::new(), end: Some(then) },
        (None, Some(_)) => {
            Verdict { chain: vec![ChainEntry { then, ports: None, until }], end: None }
        }
        (Some(ports), _) => {
            let entry = |range: &_| ChainEntry { then, ports: Some(*range), until };
            Verdict { chain: ports.iter().map(entry).collect(), end: None }
        }
    }
}

/// What makes rules of a large policy the same but for their prefix.
#[derive(PartialEq, Eq, Hash)]
struct Likeness<'p> {
    tier: usize,
    kind: RuleKind,
    operator: Option<&'p str>,
    ports: Option<&'p [PortRange]>,
    until: Option<u32>,
    /// Owner, ticket, reason.
    words: [&'p Option<String>; 3],
}

struct Ids<'p> {
    share: bool,
    known: HashMap<Likeness<'p>, u16>,
}

impl<'p> Ids<'p> {
    fn give(
        &mut self,
        list: &mut Vec<RuleMeta>,
        likeness: Likeness<'p>,
        span: &Span,
        describe: impl FnOnce() -> RuleMeta,
    ) -> Result<u16, Box<Diagnostic>> {
        if !self.share {
            list.push(describe());
            return number(list, span);
        }
        if let Some(id) = self.known.get(&likeness) {
            let first = &mut list[usize::from(*id) - 1];
            first.entries += 1;
            first.prefix = None;
            return Ok(*id);
        }
        list.push(describe());
        let id = number(list, span)?;
        self.known.insert(likeness, id);
        Ok(id)
    }
}

/// Numbers the last element of `list`.
fn number(list: &mut [RuleMeta], span: &Span) -> Result<u16, Box<Diagnostic>> {
    let count = list.len();
    match (u16::try_from(count), list.last_mut()) {
        (Ok(id), Some(last)) => {
            last.id = id;
            Ok(id)
        }
        _ => {
            let message = "more than 65,535 different rules";
            let diagnostic = Diagnostic::error("too-many-rules", span.clone(), message).help(
                "give rules of one purpose the same ports, owner, ticket and reason: they then count as one",
            );
            Err(Box::new(diagnostic))
        }
    }
}

/// What rules and zones say, by address, for one family.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) ranges: Vec<Range>,
    pub(crate) laminar: Laminar,
    /// For each range the index into `states`.
    pub(crate) state_of: Vec<u32>,
    /// `states[0]` is the one without any rule: per tier, the index into `verdicts`.
    pub(crate) states: Vec<Vec<u32>>,
    /// `verdicts[0]` says nothing.
    pub(crate) verdicts: Vec<Verdict>,
    /// For each range the indexes into `Rules::entries`.
    pub(crate) members: Vec<Vec<u32>>,
    /// Chains that no image can hold.
    pub(crate) problems: Vec<Diagnostic>,
}

/// Longest prefix first, a denial before an allowance at the same prefix, zones after all rules.
pub(crate) fn stage(rules: &Rules, tiers: usize, v6: bool) -> Stage {
    let mut placed: Vec<(Range, u32)> = (rules.entries.iter().zip(0u32..))
        .filter(|((net, _), _)| matches!(net, IpNet::V6(_)) == v6)
        .map(|((net, _), index)| (Range::from(*net), index))
        .collect();
    placed.sort_by_key(|(range, index)| (laminar::order(range), *index));
    let mut ranges: Vec<Range> = Vec::new();
    let mut members: Vec<Vec<u32>> = Vec::new();
    for (range, index) in placed {
        if ranges.last() == Some(&range)
            && let Some(last) = members.last_mut()
        {
            last.push(index);
        } else {
            ranges.push(range);
            members.push(vec![index]);
        }
    }
    let max = if v6 { u128::MAX } else { u128::from(u32::MAX) };
    let laminar = laminar::sweep(&ranges, max);
    let mut stage = Stage {
        ranges,
        laminar,
        state_of: Vec::new(),
        states: vec![vec![0; tiers]],
        verdicts: vec![Verdict::default()],
        members,
        problems: Vec::new(),
    };
    stage.fill(rules, tiers);
    stage
}

/// What stands around an address for one tier: the rules, and the innermost zone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Around {
    rules: u32,
    zone: Option<Final>,
}

impl Stage {
    fn fill(&mut self, rules: &Rules, tiers: usize) {
        let nothing = Around { rules: 0, zone: None };
        let mut interned: HashMap<Verdict, u32> = HashMap::from([(Verdict::default(), 0)]);
        let mut combos: HashMap<Vec<Around>, u32> = HashMap::from([(vec![nothing; tiers], 0)]);
        let mut around: Vec<Vec<Around>> = vec![vec![nothing; tiers]];
        for index in 0..self.ranges.len() {
            let parent = match self.laminar.parents[index] {
                NONE => 0,
                parent => self.state_of[parent],
            };
            let mut own = around[parent as usize].clone();
            let mut touched: Vec<(usize, Verdict)> = Vec::new();
            for member in &self.members[index] {
                let entry = &rules.entries[*member as usize].1;
                if entry.kind == RuleKind::Zone {
                    own[entry.tier].zone = entry.verdict.end;
                    continue;
                }
                let position = touched.iter().position(|t| t.0 == entry.tier);
                let position = position.unwrap_or_else(|| {
                    touched.push((entry.tier, Verdict::default()));
                    touched.len() - 1
                });
                let verdict = &mut touched[position].1;
                if verdict.end.is_none() {
                    verdict.chain.extend(&entry.verdict.chain);
                    verdict.end = entry.verdict.end;
                }
            }
            for (tier, mut verdict) in touched {
                if verdict.end.is_none() {
                    let outer = &self.verdicts[own[tier].rules as usize];
                    verdict.chain.extend(&outer.chain);
                    verdict.end = outer.end;
                }
                if verdict.chain.len() > MAX_CHAIN as usize {
                    self.too_long(rules, index, verdict.chain.len());
                    verdict.chain.truncate(MAX_CHAIN as usize);
                }
                own[tier].rules = match interned.get(&verdict) {
                    Some(known) => *known,
                    None => {
                        let next = self.verdicts.len() as u32;
                        self.verdicts.push(verdict.clone());
                        interned.insert(verdict, next);
                        next
                    }
                };
            }
            let state = match combos.get(&own) {
                Some(state) => *state,
                None => {
                    let next = around.len() as u32;
                    combos.insert(own.clone(), next);
                    around.push(own);
                    next
                }
            };
            self.state_of.push(state);
        }
        // Zones speak where the rules leave it open.
        for combo in &around[1..] {
            let mut state = Vec::with_capacity(tiers);
            for part in combo {
                let mut verdict = self.verdicts[part.rules as usize].clone();
                verdict.end = verdict.end.or(part.zone);
                let next = self.verdicts.len() as u32;
                let id = *interned.entry(verdict.clone()).or_insert(next);
                if id == next {
                    self.verdicts.push(verdict);
                }
                state.push(id);
            }
            self.states.push(state);
        }
    }

    fn too_long(&mut self, rules: &Rules, index: usize, count: usize) {
        let Some(member) = self.members[index].first() else { return };
        let (net, entry) = &rules.entries[*member as usize];
        let message =
            format!("{count} port ranges and expiries overlap at {net}; the limit is {MAX_CHAIN}");
        let diagnostic = Diagnostic::error("too-many-conditions", entry.span.clone(), message)
            .help("join port ranges, or remove `ports` from the wider rules");
        if self.problems.len() < 8 {
            self.problems.push(diagnostic);
        }
    }
}
