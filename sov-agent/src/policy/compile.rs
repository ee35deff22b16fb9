//! A policy and data to a policy image.
//!
//! All or nothing: with any error there is no image. The order of judgement is that of docs/policy.md:
//! scope, rules (longest prefix first, denial wins a tie), zones, denied operators, the matrix.

mod fixed;
mod laminar;
mod matrix;
mod rules;
mod selectors;
mod sweep;

use super::{
    diagnostic::{self, Diagnostic},
    image::{Image, ImageSpec, Mode, Response, TagSpec},
    lattice, lint,
    meta::{PolicyMeta, TagMeta, TierMeta},
    model::{Policy, Selector, Set, Tag},
    parse::Parsed,
    selftest,
};
use crate::data::dataset::Dataset;
use matrix::{Matrix, Members};
use rules::{Rules, Stage};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use sweep::{Classes, Swept};

pub(crate) use fixed::scopes;
pub use selectors::Unresolved;

/// What only the host knows. May be empty: selectors by name then stay unresolved.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Cgroup path below the cgroup v2 root to its id and depth (root = 0).
    pub cgroups: BTreeMap<String, (u64, u8)>,
    /// Interface name to index.
    pub interfaces: BTreeMap<String, u32>,
    /// Slots that tag names have in the live datapath: they keep them.
    pub tag_slots: BTreeMap<String, u8>,
}

/// A policy that may be made live.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub image: Image,
    /// What the image was built from: lists that a reader of the image would have to recover.
    pub spec: ImageSpec,
    pub meta: PolicyMeta,
    pub warnings: Vec<Diagnostic>,
    /// Selectors that name something this host does not have now.
    pub unresolved: Vec<Unresolved>,
}

/// Tags per node.
pub const MAX_TAGS: usize = 64;
/// Tier numbers are bytes.
pub const MAX_TIERS: usize = 255;

/// Compiles `parsed` for `data`. `now` is in unix seconds. `Err` holds all findings, warnings included.
pub fn compile(
    parsed: &Parsed,
    data: &Dataset,
    env: &Environment,
    now: u64,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut findings = parsed.findings.clone();
    findings.extend(lint::check(parsed, data.catalog(), now));
    age(&mut findings, &parsed.policy, data, now);
    let built = if findings.iter().any(Diagnostic::is_error) {
        None
    } else {
        build(parsed, data, env, now, &mut findings)
    };
    diagnostic::sort(&mut findings);
    match built {
        Some(built) if !findings.iter().any(Diagnostic::is_error) => {
            Ok(Compiled { warnings: findings, ..built })
        }
        _ => Err(findings),
    }
}

fn age(findings: &mut Vec<Diagnostic>, policy: &Policy, data: &Dataset, now: u64) {
    // Values made by hand have no inputs and no age.
    if data.sources().is_empty() {
        return;
    }
    const DAY: u64 = 24 * 60 * 60;
    let limit = &policy.defaults.max_data_age;
    let age = now.saturating_sub(data.built());
    if age > limit.value {
        let message = format!(
            "the data are {} days old, the policy accepts {} days",
            age / DAY,
            limit.value / DAY
        );
        findings.push(
            Diagnostic::error("stale-data", limit.span.clone(), message)
                .help("update the data, or raise `max_data_age` in [defaults]"),
        );
    }
    if data.built() > now.saturating_add(DAY) {
        let message = "the data were built in the future: the clock is wrong";
        findings.push(Diagnostic::warning("clock", limit.span.clone(), message));
    }
}

/// `None` if an error was added.
fn build(
    parsed: &Parsed,
    data: &Dataset,
    env: &Environment,
    now: u64,
    findings: &mut Vec<Diagnostic>,
) -> Option<Compiled> {
    let policy = &parsed.policy;
    let rules = rules::collect(policy, &parsed.source).map_err(|e| findings.push(*e)).ok()?;
    let matrices = matrices(policy, &rules);
    let tiers = policy.tiers.len();
    let stages = [rules::stage(&rules, tiers, false), rules::stage(&rules, tiers, true)];
    findings.extend(stages.iter().flat_map(|stage| stage.problems.iter().cloned()));
    let nat64: Vec<_> = policy.nat64.iter().map(|prefix| prefix.value).collect();
    let mut classes = Classes::new(data, &matrices);
    let v4 = data.v4().map(|(start, id)| (u128::from(start), id));
    let v4 = classes.sweep(&fixed::v4(), &stages[0], v4);
    let v6 = classes.sweep(&fixed::v6(&nat64), &stages[1], data.v6());
    if classes.overflow || classes.long_chain {
        findings.push(unfit(&classes));
        return None;
    }
    silent_rules(findings, &rules, &stages, [&v4, &v6]);
    let decisions: Vec<Vec<_>> = (0..tiers)
        .map(|tier| classes.decisions.iter().map(|class| class[tier].clone()).collect())
        .collect();

    let slots = slots(policy, env);
    let hash = hash(parsed, data);
    let meta = meta(policy, data, &slots, rules.meta, &hash);
    let tags = tags(policy, &slots);
    let (selectors, unresolved) = selectors::resolve(policy, &slots, env);
    let untagged = policy.defaults.untagged.as_ref();
    let spec = ImageSpec {
        v4: v4.intervals.iter().map(|(start, class)| (*start as u32, *class)).collect(),
        v6: v6.intervals,
        // Fewer than `embedded::FIRST`, or the sweep had overflowed.
        classes: classes.decisions.len() as u16,
        decisions,
        tags,
        selectors,
        untagged: untagged.and_then(|name| slots.get(name.value.as_str()).copied()),
        policy_hash: hash,
        metadata: serde_json::to_vec(&meta).unwrap_or_default(),
    };
    lattice::check(findings, policy, &spec, &meta, now);
    let image = match Image::build(&spec) {
        Ok(image) => image,
        Err(error) => {
            findings.push(Diagnostic::error("image", 0..0, error.to_string()));
            return None;
        }
    };
    selftest::run(findings, policy, &image, &spec, &meta, now);
    Some(Compiled { image, spec, meta, warnings: Vec::new(), unresolved })
}

fn unfit(classes: &Classes<'_>) -> Diagnostic {
    if classes.overflow {
        let message = "the policy tells more than 65,520 kinds of destinations apart";
        return Diagnostic::error("too-many-classes", 0..0, message)
            .help("give rules of one purpose the same ports, owner, ticket and reason");
    }
    let message = "more than 64 port ranges and expiries overlap at one destination";
    Diagnostic::error("too-many-conditions", 0..0, message)
        .help("join port ranges, or remove `ports` from the wider rules")
}

fn matrices(policy: &Policy, rules: &Rules) -> Vec<Matrix> {
    let mut matrices: Vec<_> = (policy.tiers.iter())
        .map(|tier| Matrix {
            location: Members::locations(&tier.location),
            control: Members::controls(&tier.control),
            min_sources: tier.min_sources.value,
            catalog_only: tier.catalog_only,
            operators: match &tier.operators {
                Set::Any => None,
                Set::Of(ids) => Some(ids.iter().map(|id| id.value.clone()).collect()),
            },
            denied: HashMap::new(),
        })
        .collect();
    for (operator, entry) in &rules.operators {
        let denied = matrices[entry.tier].denied.entry(operator.clone()).or_default();
        if denied.end.is_none() {
            denied.chain.extend(&entry.verdict.chain);
            denied.end = entry.verdict.end;
        }
    }
    matrices
}

/// Rules that decide nowhere, because longer prefixes or denials of the same prefix always speak first.
fn silent_rules(
    findings: &mut Vec<Diagnostic>,
    rules: &Rules,
    stages: &[Stage; 2],
    swept: [&Swept; 2],
) {
    let mut heard = vec![false; rules.entries.len()];
    for (stage, swept) in stages.iter().zip(swept) {
        for innermost in (0..stage.ranges.len()).filter(|index| swept.spoke[*index]) {
            // From the innermost prefix outwards, until an unconditional rule of the tier has spoken.
            let mut closed: Vec<usize> = Vec::new();
            let mut range = innermost;
            while range != laminar::NONE {
                for member in &stage.members[range] {
                    let entry = &rules.entries[*member as usize].1;
                    let zone = entry.kind == super::meta::RuleKind::Zone;
                    if zone || !closed.contains(&entry.tier) {
                        heard[*member as usize] = true;
                        if !zone && entry.verdict.end.is_some() {
                            closed.push(entry.tier);
                        }
                    }
                }
                range = stage.laminar.parents[range];
            }
        }
    }
    let told: HashSet<usize> = (findings.iter())
        .filter(|finding| finding.code == "duplicate-rule")
        .map(|finding| finding.span.start)
        .collect();
    for (heard, (net, entry)) in heard.iter().zip(&rules.entries) {
        let zone = entry.kind == super::meta::RuleKind::Zone;
        if !heard && !zone && !told.contains(&entry.span.start) {
            let message = format!("this rule for {net} never decides");
            findings.push(
                Diagnostic::warning("shadowed", entry.span.clone(), message)
                    .help("rules of longer prefixes, a denial, or the kind of address decide first; remove it"),
            );
        }
    }
}

/// A tag keeps the slot that it has; a new one gets the lowest that nothing live uses, if there is one.
fn slots<'p>(policy: &'p Policy, env: &Environment) -> HashMap<&'p str, u8> {
    let limit = MAX_TAGS as u8;
    let names: Vec<&str> = policy.tags.iter().map(|tag| tag.name.value.as_str()).collect();
    let mut slots: HashMap<&str, u8> = HashMap::new();
    let mut taken = [false; MAX_TAGS];
    for name in &names {
        if let Some(slot) = env.tag_slots.get(*name).copied().filter(|slot| *slot < limit)
            && !taken[usize::from(slot)]
        {
            taken[usize::from(slot)] = true;
            slots.insert(name, slot);
        }
    }
    for name in names {
        if slots.contains_key(name) {
            continue;
        }
        let free = |slot: &u8| !taken[usize::from(*slot)];
        let unused = |slot: &u8| free(slot) && !env.tag_slots.values().any(|live| live == slot);
        let slot = (0..limit).find(unused).or_else(|| (0..limit).find(free));
        // The lint refuses more tags than slots.
        if let Some(slot) = slot {
            taken[usize::from(slot)] = true;
            slots.insert(name, slot);
        }
    }
    slots
}

fn mode(policy: &Policy, tag: &Tag) -> Mode {
    tag.mode.unwrap_or(policy.defaults.mode)
}

fn response(policy: &Policy, tag: &Tag) -> Response {
    tag.response.unwrap_or(policy.defaults.response)
}

fn tags(policy: &Policy, slots: &HashMap<&str, u8>) -> Vec<TagSpec> {
    let tier_of = |name: &str| policy.tiers.iter().position(|tier| tier.name.value == name);
    let mut tags = Vec::new();
    for tag in &policy.tags {
        let slot = slots.get(tag.name.value.as_str()).copied();
        let tier = tier_of(&tag.tier.value).and_then(|tier| u8::try_from(tier).ok());
        if let (Some(slot), Some(tier)) = (slot, tier) {
            tags.push(TagSpec {
                slot,
                rank: tag.rank.value,
                tier,
                mode: mode(policy, tag),
                response: response(policy, tag),
                replies: tag.replies.value,
            });
        }
    }
    tags
}

fn meta(
    policy: &Policy,
    data: &Dataset,
    slots: &HashMap<&str, u8>,
    rules: Vec<super::meta::RuleMeta>,
    hash: &[u8; 32],
) -> PolicyMeta {
    let tags = policy.tags.iter().filter_map(|tag| {
        Some(TagMeta {
            slot: *slots.get(tag.name.value.as_str())?,
            name: tag.name.value.clone(),
            tier: tag.tier.value.clone(),
            rank: tag.rank.value,
            mode: match mode(policy, tag) {
                Mode::Audit => "audit".to_owned(),
                Mode::Enforce => "enforce".to_owned(),
            },
            response: match response(policy, tag) {
                Response::Reject => "reject".to_owned(),
                Response::Drop => "drop".to_owned(),
            },
            replies: tag.replies.value,
            cgroups: named(tag, |s| match s {
                Selector::Cgroup(path) => Some(path),
                _ => None,
            }),
            interfaces: named(tag, |s| match s {
                Selector::Interface(name) => Some(name),
                _ => None,
            }),
        })
    });
    PolicyMeta {
        name: policy.name.clone(),
        hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        tags: tags.collect(),
        tiers: policy.tiers.iter().map(|t| TierMeta { name: t.name.value.clone() }).collect(),
        rules,
        datasets: data.sources().iter().map(|source| source.id.clone()).collect(),
        data_built: data.built(),
        max_data_age: policy.defaults.max_data_age.value,
        untagged: policy.defaults.untagged.as_ref().map(|name| name.value.clone()),
        nat64: policy.nat64.iter().map(|prefix| prefix.value).collect(),
    }
}

/// Names in a tag's selectors of one kind.
fn named(tag: &Tag, pick: impl Fn(&Selector) -> Option<&String>) -> Vec<String> {
    tag.select.iter().filter_map(|selector| pick(&selector.value).cloned()).collect()
}

/// SHA-256 of the policy source and of what identifies its data.
fn hash(parsed: &Parsed, data: &Dataset) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(parsed.source.text().as_bytes());
    for source in data.sources() {
        part(source.id.as_bytes());
        part(source.sha256.as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests;
