//! Judges a policy as a whole: names that lead nowhere, duplicates, overlaps, things that do nothing.
//!
//! Asks the operator catalog for names and nothing else of the data.

mod overlap;

use super::{
    compile::{MAX_TAGS, MAX_TIERS},
    diagnostic::{Diagnostic, Span},
    model::{Rule, Set, Spanned, Target, Tier},
    parse::{Parsed, closest, values::short},
};
use crate::data::catalog::Catalog;
use ipnet::IpNet;
use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    hash::Hash,
};

/// Everything but what needs the compiled result (silent rules, the rank lattice, the policy's tests).
pub(super) fn check(parsed: &Parsed, catalog: &Catalog, now: u64) -> Vec<Diagnostic> {
    let mut lint = Lint { parsed, catalog, now, out: Vec::new() };
    lint.names();
    if !lint.limits() {
        // What follows compares everything with everything.
        return lint.out;
    }
    lint.zones();
    for tier in &parsed.policy.tiers {
        lint.tier(tier);
    }
    lint.tags();
    lint.tests();
    overlap::check(&mut lint.out, &parsed.policy);
    if parsed.findings.iter().any(Diagnostic::is_error) {
        // What could not be read seems to be unused, empty or untested.
        lint.out.retain(Diagnostic::is_error);
    }
    lint.out
}

const MAX_ZONES: usize = 1024;
const MAX_NAT64: usize = 64;
const MAX_SELECTORS: usize = 4096;
/// A suggestion costs a search; a policy that is wrong everywhere gets none from here on.
const MAX_SUGGESTIONS: usize = 1000;

struct Lint<'p> {
    parsed: &'p Parsed,
    catalog: &'p Catalog,
    now: u64,
    out: Vec<Diagnostic>,
}

impl Lint<'_> {
    /// Every zone, tier and tag has its own name.
    fn names(&mut self) {
        let policy = &self.parsed.policy;
        let kinds: [(&str, Vec<&Spanned<String>>); 3] = [
            ("zone", policy.zones.iter().map(|zone| &zone.name).collect()),
            ("tier", policy.tiers.iter().map(|tier| &tier.name).collect()),
            ("tag", policy.tags.iter().map(|tag| &tag.name).collect()),
        ];
        for (kind, names) in kinds {
            let mut seen: HashMap<&str, &Span> = HashMap::new();
            for name in names {
                if let Some(first) = seen.get(name.value.as_str()) {
                    let message = format!("{kind} `{}` is defined twice", name.value);
                    self.out.push(
                        Diagnostic::error("duplicate-name", name.span.clone(), message)
                            .help("give it another name")
                            .other((*first).clone(), "first defined here"),
                    );
                } else {
                    seen.insert(&name.value, &name.span);
                }
            }
        }
    }

    /// Whether the policy has a size that can be judged.
    fn limits(&mut self) -> bool {
        let policy = &self.parsed.policy;
        let selectors = policy.tags.iter().flat_map(|tag| &tag.select);
        let excess = [
            ("tags", MAX_TAGS, policy.tags.len(), policy.tags.get(MAX_TAGS).map(|t| &t.name.span)),
            (
                "tiers",
                MAX_TIERS,
                policy.tiers.len(),
                policy.tiers.get(MAX_TIERS).map(|t| &t.name.span),
            ),
            (
                "zones",
                MAX_ZONES,
                policy.zones.len(),
                policy.zones.get(MAX_ZONES).map(|z| &z.name.span),
            ),
            (
                "NAT64 prefixes",
                MAX_NAT64,
                policy.nat64.len(),
                policy.nat64.get(MAX_NAT64).map(|p| &p.span),
            ),
            (
                "selectors",
                MAX_SELECTORS,
                selectors.clone().count(),
                selectors.clone().nth(MAX_SELECTORS).map(|s| &s.span),
            ),
        ];
        let mut good = true;
        for (what, limit, count, span) in excess {
            if let Some(span) = span {
                good = false;
                let message = format!("{count} {what}; the limit is {limit}");
                self.out.push(
                    Diagnostic::error("too-many", span.clone(), message)
                        .help("join those that mean the same"),
                );
            }
        }
        if policy.tags.is_empty() && !self.parsed.findings.iter().any(Diagnostic::is_error) {
            self.out.push(
                Diagnostic::warning("no-tag", 0..0, "the policy has no tag: it judges no traffic")
                    .help("write a [[tag]] with a tier, a rank and selectors"),
            );
        }
        self.duplicates("nat64", &policy.nat64);
        good
    }

    fn zones(&mut self) {
        let policy = &self.parsed.policy;
        let used: HashSet<&str> = (policy.tiers.iter())
            .flat_map(|tier| &tier.zones)
            .map(|name| name.value.as_str())
            .collect();
        for zone in &policy.zones {
            if !used.contains(zone.name.value.as_str()) {
                let message = format!("no tier uses zone `{}`", zone.name.value);
                self.out.push(
                    Diagnostic::warning("unused-zone", zone.name.span.clone(), message)
                        .help("list it in `zones` of a tier, or remove it"),
                );
            }
            if zone.prefixes.is_empty() {
                let message =
                    format!("zone `{}` has no prefix: it matches nothing", zone.name.value);
                self.out.push(Diagnostic::warning("empty-set", zone.name.span.clone(), message));
            }
            self.duplicates("prefixes", &zone.prefixes);
            for prefix in &zone.prefixes {
                self.inside_nat64(&prefix.value, &prefix.span);
                self.wide(&prefix.value, &prefix.span, "zone");
            }
            self.nested(&zone.prefixes);
        }
    }

    /// Prefixes of one zone that another one covers.
    fn nested(&mut self, prefixes: &[Spanned<IpNet>]) {
        let mut sorted: Vec<_> = prefixes.iter().collect();
        sorted.sort_by_key(|prefix| (prefix.value.network(), prefix.value.prefix_len()));
        let mut around: Option<&Spanned<IpNet>> = None;
        for prefix in sorted {
            match around {
                Some(outer) if outer.value.contains(&prefix.value) => {
                    if outer.value != prefix.value {
                        let message = format!("{} is inside {}", prefix.value, outer.value);
                        self.out.push(
                            Diagnostic::warning("redundant", prefix.span.clone(), message)
                                .help("remove the smaller one")
                                .other(outer.span.clone(), "the larger one"),
                        );
                    }
                }
                _ => around = Some(prefix),
            }
        }
    }

    fn tier(&mut self, tier: &Tier) {
        let policy = &self.parsed.policy;
        let name = &tier.name;
        if !policy.tags.iter().any(|tag| tag.tier.value == name.value) {
            let message = format!("no tag uses tier `{}`", name.value);
            self.out.push(
                Diagnostic::warning("unused-tier", name.span.clone(), message)
                    .help("bind a tag to it, or remove it"),
            );
        }
        self.duplicates("location", tier.location.items());
        self.duplicates("control", tier.control.items());
        self.duplicates("operators", tier.operators.items());
        self.duplicates("zones", &tier.zones);
        for zone in &tier.zones {
            self.known(zone, "zone", policy.zones.iter().map(|zone| zone.name.value.as_str()));
        }
        for operator in tier.operators.items() {
            self.operator(&operator.value, &operator.span);
        }
        let unknown = |item: &Spanned<_>| item.value == crate::data::model::Location::Unknown;
        let listed = matches!(tier.location, Set::Any) || tier.location.items().iter().any(unknown);
        if listed && tier.min_sources.value > 1 {
            let message = "min_sources above 1 excludes destinations of unknown location";
            self.out.push(
                Diagnostic::warning("min-sources", tier.min_sources.span.clone(), message)
                    .help("write min_sources = 1, or list countries in `location`"),
            );
        }
        for rule in tier.allow.iter().chain(&tier.deny) {
            self.rule(rule);
        }
        for rule in &tier.allow {
            if let Target::Prefix(net) = &rule.target.value {
                self.wide(net, &rule.target.span, "allow rule");
            }
            let missing: Vec<&str> = [("owner", &rule.owner), ("ticket", &rule.ticket)]
                .iter()
                .filter(|(_, value)| value.as_ref().is_none_or(|text| text.trim().is_empty()))
                .map(|(key, _)| *key)
                .collect();
            if rule.until.is_some() && !missing.is_empty() {
                let message = format!("this exception has no {}", missing.join(" and no "));
                self.out.push(
                    Diagnostic::warning("unowned-exception", rule.span.clone(), message)
                        .help("write who answers for it and where it was approved"),
                );
            }
        }
        self.repeated("allow", &tier.allow);
        self.repeated("deny", &tier.deny);
    }

    fn rule(&mut self, rule: &Rule) {
        match &rule.target.value {
            Target::Prefix(net) => self.inside_nat64(net, &rule.target.span),
            Target::Operator(id) => self.operator(id, &rule.target.span),
        }
        if let Some(until) = &rule.until
            && u64::from(until.value) <= self.now
        {
            self.out.push(
                Diagnostic::warning("expired", until.span.clone(), "this rule has expired")
                    .help("remove it, or give it a later time"),
            );
        }
    }

    /// Rules of one list that say the same.
    fn repeated(&mut self, list: &str, rules: &[Rule]) {
        let mut seen: HashMap<_, &Span> = HashMap::new();
        for rule in rules {
            let until = rule.until.as_ref().map(|until| until.value);
            let key = (&rule.target.value, &rule.ports, until);
            if let Some(first) = seen.get(&key) {
                let target = match &rule.target.value {
                    Target::Prefix(net) => net.to_string(),
                    Target::Operator(id) => short(id),
                };
                let message = format!("`{list}` has a rule for {target} twice");
                self.out.push(
                    Diagnostic::warning("duplicate-rule", rule.span.clone(), message)
                        .help("remove one")
                        .other((*first).clone(), "the first one"),
                );
            } else {
                seen.insert(key, &rule.span);
            }
        }
    }

    /// A prefix of the site's NAT64 space is judged as IPv4.
    fn inside_nat64(&mut self, net: &IpNet, span: &Span) {
        let IpNet::V6(v6) = net else { return };
        let site = self.parsed.policy.nat64.iter().find(|site| site.value.contains(v6));
        if let Some(site) = site {
            let message = format!(
                "{net} is in the site's NAT64 space, which is judged as the IPv4 address inside"
            );
            self.out.push(
                Diagnostic::error("embedded-ipv4", span.clone(), message)
                    .help("write the IPv4 prefix")
                    .other(site.span.clone(), "the NAT64 prefix"),
            );
        }
    }

    fn wide(&mut self, net: &IpNet, span: &Span, what: &str) {
        let limit = if matches!(net, IpNet::V4(_)) { 8 } else { 7 };
        if net.prefix_len() < limit {
            let message = format!("{net} is a very large part of the internet for one {what}");
            self.out.push(
                Diagnostic::warning("wide", span.clone(), message)
                    .help("name the networks that are meant, or say it by location and control"),
            );
        }
    }

    fn tags(&mut self) {
        let policy = &self.parsed.policy;
        let untagged = policy.defaults.untagged.as_ref();
        if let Some(name) = untagged {
            let tags = policy.tags.iter().map(|tag| tag.name.value.as_str());
            self.known(name, "tag", tags.chain(["pass"]));
        }
        for tag in &policy.tags {
            if !tag.tier.value.is_empty() {
                self.known(&tag.tier, "tier", policy.tiers.iter().map(|t| t.name.value.as_str()));
            }
            let is_default = untagged.is_some_and(|name| name.value == tag.name.value);
            if tag.select.is_empty() && !is_default {
                let message =
                    format!("tag `{}` has no selector: no traffic gets it", tag.name.value);
                self.out.push(
                    Diagnostic::warning("unused-tag", tag.name.span.clone(), message).help(
                        "write `select = [ { cgroup = \"/...\" } ]`, or name it in `untagged`",
                    ),
                );
            }
        }
    }

    fn tests(&mut self) {
        let policy = &self.parsed.policy;
        for test in &policy.tests {
            self.known(&test.tag, "tag", policy.tags.iter().map(|tag| tag.name.value.as_str()));
            if test.reach.is_empty() && test.refuse.is_empty() {
                self.out.push(
                    Diagnostic::warning(
                        "empty-test",
                        test.tag.span.clone(),
                        "this test tests nothing",
                    )
                    .help("list destinations in `reach` or `refuse`"),
                );
            }
        }
    }

    fn known<'k>(
        &mut self,
        name: &Spanned<String>,
        kind: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        if known.clone().any(|known| known == name.value) {
            return;
        }
        let code = match kind {
            "zone" => "unknown-zone",
            "tier" => "unknown-tier",
            _ => "unknown-tag",
        };
        let message = format!("there is no {kind} `{}`", short(&name.value));
        let near = if self.out.len() < MAX_SUGGESTIONS {
            closest(&name.value, known.clone())
        } else {
            None
        };
        let help = match near {
            Some(right) => format!("did you mean \"{right}\"?"),
            None => {
                let list: Vec<_> = known.take(8).collect();
                match list[..] {
                    [] => format!("define it with [[{kind}]]"),
                    _ => format!("known are: {}", list.join(", ")),
                }
            }
        };
        self.out.push(Diagnostic::error(code, name.span.clone(), message).help(help));
    }

    fn operator(&mut self, id: &str, span: &Span) {
        if self.catalog.by_id(id).is_some() {
            return;
        }
        let near = if self.out.len() < MAX_SUGGESTIONS {
            let named = self.catalog.operators().iter().find(|o| o.name.eq_ignore_ascii_case(id));
            named.map(|o| o.id.as_str()).or_else(|| closest(id, self.catalog.ids()))
        } else {
            None
        };
        let help = match near {
            Some(right) => format!("did you mean \"{right}\"?"),
            None => "write an id of the operator catalog".to_owned(),
        };
        let message = format!("the catalog has no operator `{}`", short(id));
        self.out.push(Diagnostic::error("unknown-operator", span.clone(), message).help(help));
    }

    fn duplicates<T: Eq + Hash + DisplayValue>(&mut self, list: &str, items: &[Spanned<T>]) {
        let mut seen: HashMap<&T, &Span> = HashMap::new();
        for item in items {
            if let Some(first) = seen.get(&item.value) {
                let message = format!("`{list}` has {} twice", item.value.shown());
                self.out.push(
                    Diagnostic::warning("duplicate", item.span.clone(), message)
                        .help("remove one")
                        .other((*first).clone(), "the first one"),
                );
            } else {
                seen.insert(&item.value, &item.span);
            }
        }
    }
}

/// How a value is repeated in a message: never longer than bearable.
trait DisplayValue {
    fn shown(&self) -> String;
}

impl<T: Display> DisplayValue for T {
    fn shown(&self) -> String {
        short(&self.to_string())
    }
}
