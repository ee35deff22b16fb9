//! Reads policy text into a [`Policy`] and reports everything that is wrong with it, all at once.
//!
//! Strict: unknown fields, wrong types and values that cannot be meant are errors. What needs other
//! parts of the policy or the data (names, overlaps) is judged by `lint`, not here.

pub mod suggest;
pub mod values;
mod walk;

use super::{
    countries,
    diagnostic::{Diagnostic, Source, Span},
    image::{Mode, PortRange, Response},
    model::{
        DEFAULT_MAX_DATA_AGE, Defaults, Policy, Rule, Selector, Set, Spanned, Tag, Target, Test,
        Tier, Zone,
    },
};
use crate::data::model::{Control, Country, Location};
use ipnet::IpNet;
use std::collections::HashSet;
use toml::de::{DeTable, DeValue};
use walk::{Fields, Findings, Value};

use values::{Wrong, endpoint, short};

pub use suggest::closest;

/// A policy and what is wrong with it. With an error among the findings it must not be compiled.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub source: Source,
    pub policy: Policy,
    pub findings: Vec<Diagnostic>,
}

/// Never fails: a text that is no policy at all gives findings and an empty policy.
pub fn parse(source: Source) -> Parsed {
    if let Some(damage) = source.damage() {
        let findings = vec![damage.clone()];
        return Parsed { policy: Policy::default(), findings, source };
    }
    let (root, errors) = DeTable::parse_recoverable(source.text());
    let mut findings = Findings::default();
    let span = root.span();
    let policy = read_policy(&mut findings, span, root.get_ref());
    let mut findings = findings.list;
    if !errors.is_empty() {
        // One slip makes the parser stumble on: the first error of a line is the one that helps.
        let mut lines = HashSet::new();
        let mut syntax: Vec<_> = errors.iter().take(MAX_SYNTAX_ERRORS).map(syntax_error).collect();
        syntax.sort_by_key(|error| error.span.start);
        syntax.retain(|error| lines.insert(source.position(error.span.start).0));
        // What is broken is missing or half read: only errors on sound lines are worth telling.
        findings.retain(|finding| {
            let line = source.position(finding.span.start).0;
            finding.is_error() && finding.code != "missing" && !lines.contains(&line)
        });
        findings.extend(syntax);
    }
    Parsed { source, policy, findings }
}

/// One missing quote can break every line after it.
const MAX_SYNTAX_ERRORS: usize = 1000;

fn syntax_error(error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let help = match error.message() {
        "duplicate key" => "remove one",
        _ => {
            "text stands in quotes, lists as [a, b], tables as [name] or [[name]], each on one line"
        }
    };
    Diagnostic::error("syntax", span, format!("not TOML: {}", error.message())).help(help)
}

const ROOT: [&str; 8] = ["version", "name", "nat64", "defaults", "zone", "tier", "tag", "test"];

fn read_policy(findings: &mut Findings, span: Span, root: &DeTable<'_>) -> Policy {
    let start = span.start..span.start;
    let root = Fields::new(findings, "", start, root, &ROOT);
    if let Some(version) = root.need(findings, "version", "write `version = 1` in the first line") {
        let known = matches!(version.get_ref(), DeValue::Integer(n) if n.to_string() == "1");
        if !known {
            let message = "this version of the policy language is not known";
            findings.add(
                Diagnostic::error("version", version.span(), message).help("write `version = 1`"),
            );
        }
    }
    let mut policy = Policy::default();
    if let Some(value) = root.get("name")
        && let Some(text) = findings.string("name", value)
    {
        policy.name = findings.check(text.span, values::name(&text.value)).unwrap_or_default();
    }
    if let Some(value) = root.get("nat64") {
        policy.nat64 = findings.strings("nat64", value, values::nat64_prefix);
    }
    if let Some(value) = root.get("defaults") {
        policy.defaults = read_defaults(findings, value);
    }
    if let Some(value) = root.get("zone") {
        for fields in findings.tables("zone", value, &["name", "prefixes"]) {
            policy.zones.extend(read_zone(findings, &fields));
        }
    }
    if let Some(value) = root.get("tier") {
        for fields in findings.tables("tier", value, &TIER) {
            policy.tiers.extend(read_tier(findings, &fields));
        }
    }
    if let Some(value) = root.get("tag") {
        for fields in findings.tables("tag", value, &TAG) {
            policy.tags.extend(read_tag(findings, &fields));
        }
    }
    if let Some(value) = root.get("test") {
        for fields in findings.tables("test", value, &["tag", "reach", "refuse"]) {
            policy.tests.extend(read_test(findings, &fields));
        }
    }
    policy
}

const MODES: [(&str, Mode); 2] = [("audit", Mode::Audit), ("enforce", Mode::Enforce)];
const RESPONSES: [(&str, Response); 2] = [("reject", Response::Reject), ("drop", Response::Drop)];

fn read_defaults(findings: &mut Findings, value: &Value<'_>) -> Defaults {
    let mut defaults = Defaults::default();
    let known = ["mode", "response", "untagged", "max_data_age"];
    let Some(fields) = findings.table("defaults", value, &known) else { return defaults };
    if let Some(word) = fields.get("mode").and_then(|v| findings.word("mode", v, &MODES)) {
        defaults.mode = word.value;
    }
    let response = fields.get("response").and_then(|v| findings.word("response", v, &RESPONSES));
    if let Some(word) = response {
        defaults.response = word.value;
    }
    if let Some(text) = fields.get("untagged").and_then(|v| findings.string("untagged", v)) {
        defaults.untagged = (text.value != "pass").then_some(text);
    }
    if let Some(text) = fields.get("max_data_age").and_then(|v| findings.string("max_data_age", v))
    {
        let age = findings.check(text.span.clone(), values::duration(&text.value));
        defaults.max_data_age = Spanned::new(age.unwrap_or(DEFAULT_MAX_DATA_AGE), text.span);
    }
    defaults
}

fn read_name(findings: &mut Findings, fields: &Fields<'_, '_>) -> Option<Spanned<String>> {
    let value = fields.need(findings, "name", "write `name = \"...\"`")?;
    let text = findings.string("name", value)?;
    let name = findings.check(text.span.clone(), values::name(&text.value))?;
    Some(Spanned::new(name, text.span))
}

/// A reference to another part of the policy.
fn read_reference(
    findings: &mut Findings,
    fields: &Fields<'_, '_>,
    key: &'static str,
    help: &str,
) -> Option<Spanned<String>> {
    let value = fields.need(findings, key, help)?;
    findings.string(key, value)
}

fn read_zone(findings: &mut Findings, fields: &Fields<'_, '_>) -> Option<Zone> {
    let name = read_name(findings, fields);
    let help = "write `prefixes = [\"10.0.0.0/8\"]`";
    let prefixes = match fields.need(findings, "prefixes", help) {
        Some(value) => findings.strings("prefixes", value, |text| {
            let net = values::rule_prefix(text)?;
            if net.prefix_len() == 0 { Err(everything(net)) } else { Ok(net) }
        }),
        None => Vec::new(),
    };
    Some(Zone { name: name?, prefixes })
}

fn everything(net: IpNet) -> Wrong {
    Wrong {
        code: "everything",
        message: format!("{net} is the whole internet"),
        help: "to allow everything, write location = \"*\" and control = \"*\" in the tier".into(),
    }
}

const TIER: [&str; 9] = [
    "name",
    "location",
    "control",
    "min_sources",
    "control_basis",
    "zones",
    "operators",
    "allow",
    "deny",
];

fn read_tier(findings: &mut Findings, fields: &Fields<'_, '_>) -> Option<Tier> {
    let name = read_name(findings, fields);
    let location = read_set(findings, fields, "location", read_location);
    let control = read_set(findings, fields, "control", read_control);
    for (key, missing) in [("location", location.is_none()), ("control", control.is_none())] {
        if missing && fields.get(key).is_none() {
            findings.add(
                Diagnostic::warning(
                    "empty-set",
                    fields.span.clone(),
                    format!(
                        "this tier has no `{key}`: it matches no destination by its attributes"
                    ),
                )
                .help(format!("write {key} = [\"JP\"], or {key} = \"*\" for any")),
            );
        }
    }
    let operators = match fields.get("operators") {
        Some(_) => read_set(findings, fields, "operators", |text| Ok(text.to_owned())),
        None => Some(Set::Any),
    };
    let min_sources = fields.get("min_sources").and_then(|value| {
        let number = findings.integer("min_sources", value, 1, 16)?;
        Some(Spanned::new(u8::try_from(number.value).ok()?, number.span))
    });
    let basis = [("any", false), ("catalog", true)];
    let catalog_only =
        fields.get("control_basis").and_then(|v| findings.word("control_basis", v, &basis));
    let zones = fields.get("zones");
    let zones = zones.map(|v| findings.strings("zones", v, |text| Ok(text.to_owned())));
    let mut rules = |key: &'static str| match fields.get(key) {
        Some(value) => (findings.list(key, "rules", value).iter())
            .filter_map(|item| read_rule(findings, key, item))
            .collect(),
        None => Vec::new(),
    };
    let (allow, deny) = (rules("allow"), rules("deny"));
    Some(Tier {
        name: name?,
        location: location.unwrap_or(Set::Of(Vec::new())),
        control: control.unwrap_or(Set::Of(Vec::new())),
        min_sources: min_sources.unwrap_or(Spanned::new(1, fields.span.clone())),
        catalog_only: catalog_only.is_some_and(|word| word.value),
        zones: zones.unwrap_or_default(),
        operators: operators.unwrap_or(Set::Of(Vec::new())),
        allow,
        deny,
    })
}

/// `"*"` or a list. `None` = absent or unusable, which matches nothing.
fn read_set<T>(
    findings: &mut Findings,
    fields: &Fields<'_, '_>,
    key: &'static str,
    read: impl Fn(&str) -> Result<T, Wrong>,
) -> Option<Set<T>> {
    let value = fields.get(key)?;
    if let DeValue::String(text) = value.get_ref() {
        if text == "*" {
            return Some(Set::Any);
        }
        let message = format!("`{key}` must be a list or \"*\"");
        let help = format!("write {key} = [\"{}\"]", short(text));
        findings.add(Diagnostic::error("type", value.span(), message).help(help));
        return None;
    }
    let items = findings.list(key, "strings", value);
    let star = items.iter().find(|v| matches!(v.get_ref(), DeValue::String(t) if t == "*"));
    if let Some(star) = star {
        if items.len() > 1 {
            let message = format!("`*` in `{key}` stands for every value; the others say nothing");
            let help = format!("write {key} = \"*\", or remove `*`");
            findings.add(Diagnostic::error("star", star.span(), message).help(help));
        }
        return Some(Set::Any);
    }
    if items.is_empty() && matches!(value.get_ref(), DeValue::Array(_)) {
        let message = format!("`{key}` is empty: it matches nothing");
        let help = if key == "operators" {
            "write operator ids, or remove it for any operator".to_owned()
        } else {
            format!("write values, or {key} = \"*\" for any")
        };
        findings.add(Diagnostic::warning("empty-set", value.span(), message).help(help));
    }
    Some(Set::Of(findings.strings(key, value, read)))
}

fn read_location(text: &str) -> Result<Location, Wrong> {
    match text {
        "anycast" => Ok(Location::Anycast),
        "unknown" => Ok(Location::Unknown),
        _ => read_country(text, "anycast").map(Location::Country),
    }
}

fn read_control(text: &str) -> Result<Control, Wrong> {
    match text {
        "contested" => Ok(Control::Contested),
        "unknown" => Ok(Control::Unknown),
        _ => read_country(text, "contested").map(Control::Country),
    }
}

fn read_country(text: &str, special: &str) -> Result<Country, Wrong> {
    if countries::known(text)
        && let Some(country) = Country::new(text)
    {
        return Ok(country);
    }
    let help = match (closest(text, [special, "unknown"]), countries::suggest(text)) {
        (Some(word), _) => format!("did you mean \"{word}\"?"),
        (None, Some((code, name))) => format!("did you mean \"{code}\" ({name})?"),
        (None, None) => {
            format!("write two capital letters of ISO 3166-1, \"{special}\" or \"unknown\"")
        }
    };
    let message = format!("`{}` is not a country", short(text));
    Err(Wrong { code: "unknown-country", message, help })
}

const RULE: [&str; 7] = ["prefix", "operator", "ports", "until", "owner", "ticket", "reason"];

fn read_rule(findings: &mut Findings, kind: &'static str, value: &Value<'_>) -> Option<Rule> {
    let fields = findings.table(kind, value, &RULE)?;
    let target = read_target(findings, kind, &fields);
    let ports = fields.get("ports").map(|value| read_ports(findings, value));
    let until = match fields.get("until") {
        Some(value) => Some(read_until(findings, value)?),
        None => None,
    };
    let mut text = |key| {
        let text = findings.string(key, fields.get(key)?)?;
        findings.check(text.span, values::remark(key, &text.value))
    };
    let (owner, ticket, reason) = (text("owner"), text("ticket"), text("reason"));
    Some(Rule { span: value.span(), target: target?, ports, until, owner, ticket, reason })
}

fn read_target(
    findings: &mut Findings,
    kind: &'static str,
    fields: &Fields<'_, '_>,
) -> Option<Spanned<Target>> {
    match (fields.get("prefix"), fields.get("operator")) {
        (Some(_), Some(operator)) => {
            let message = "a rule has a prefix or an operator, not both";
            findings
                .add(Diagnostic::error("target", operator.span(), message).help("write two rules"));
            None
        }
        (Some(value), None) => {
            let text = findings.string("prefix", value)?;
            let net = findings.check(text.span.clone(), values::rule_prefix(&text.value))?;
            if kind == "allow" && net.prefix_len() == 0 {
                findings.wrong(text.span, everything(net));
                return None;
            }
            Some(Spanned::new(Target::Prefix(net), text.span))
        }
        (None, Some(value)) => {
            let text = findings.string("operator", value)?;
            if kind == "allow" {
                let span = fields.key_span("operator").unwrap_or(text.span);
                let help = "list it in the tier's `operators`, or allow its prefixes";
                findings.add(
                    Diagnostic::error("allow-operator", span, "`allow` cannot name an operator")
                        .help(help),
                );
                return None;
            }
            Some(Spanned::new(Target::Operator(text.value), text.span))
        }
        (None, None) => {
            let help = match kind {
                "deny" => "write prefix = \"...\" or operator = \"...\"",
                _ => "write prefix = \"...\"",
            };
            let message = format!("this {kind} rule has no `prefix`");
            findings.add(Diagnostic::error("missing", fields.span.clone(), message).help(help));
            None
        }
    }
}

fn read_ports(findings: &mut Findings, value: &Value<'_>) -> Vec<PortRange> {
    let items = findings.list("ports", "strings", value);
    if items.is_empty() && matches!(value.get_ref(), DeValue::Array(_)) {
        let message = "`ports` is empty: the rule says nothing";
        findings.add(
            Diagnostic::error("empty-set", value.span(), message)
                .help("write ports, or remove it for every protocol and port"),
        );
    }
    findings.strings("ports", value, values::ports).into_iter().flat_map(|p| p.value).collect()
}

/// A string or TOML's own time.
fn read_until(findings: &mut Findings, value: &Value<'_>) -> Option<Spanned<u32>> {
    let text = match value.get_ref() {
        DeValue::Datetime(time) => time.to_string(),
        _ => findings.string("until", value)?.value,
    };
    let time = findings.check(value.span(), values::until(&text))?;
    Some(Spanned::new(time, value.span()))
}

const TAG: [&str; 7] = ["name", "tier", "rank", "mode", "response", "replies", "select"];

fn read_tag(findings: &mut Findings, fields: &Fields<'_, '_>) -> Option<Tag> {
    let name = read_name(findings, fields);
    let tier = read_reference(findings, fields, "tier", "write the name of a tier");
    let help = "write a number from 0 to 255; a higher rank must never reach more than a lower one";
    let rank = fields.need(findings, "rank", help).and_then(|value| {
        let number = findings.integer("rank", value, 0, 255)?;
        Some(Spanned::new(u8::try_from(number.value).ok()?, number.span))
    });
    let mode = fields.get("mode").and_then(|v| findings.word("mode", v, &MODES));
    let response = fields.get("response").and_then(|v| findings.word("response", v, &RESPONSES));
    let replies = [("judge", false), ("allow", true)];
    let replies = fields.get("replies").and_then(|v| findings.word("replies", v, &replies));
    let mut select = Vec::new();
    if let Some(value) = fields.get("select") {
        for item in findings.list("select", "selectors", value) {
            let selector = read_selector(findings, item);
            select.extend(selector.map(|selector| Spanned::new(selector, item.span())));
        }
    }
    Some(Tag {
        name: name?,
        // A name that could not be read is reported once, not again by every use of the tag.
        tier: tier.unwrap_or(Spanned::new(String::new(), fields.span.clone())),
        has_rank: rank.is_some(),
        rank: rank.unwrap_or(Spanned::new(0, fields.span.clone())),
        mode: mode.map(|word| word.value),
        response: response.map(|word| word.value),
        replies: replies.unwrap_or(Spanned::new(false, fields.span.clone())),
        select,
    })
}

const SELECTOR: [&str; 7] = ["cgroup", "mark", "source", "dscp", "vlan", "interface", "uid"];

fn read_selector(findings: &mut Findings, value: &Value<'_>) -> Option<Selector> {
    let fields = findings.table("select", value, &SELECTOR)?;
    let given: Vec<_> = SELECTOR.iter().filter(|key| fields.get(key).is_some()).collect();
    let [key] = given[..] else {
        let (message, help) = if given.is_empty() {
            ("this selector selects nothing", format!("write one of {}", SELECTOR.join(", ")))
        } else {
            let help = "write one entry for each; a tag matches when any of its selectors does";
            ("a selector has one field", help.to_owned())
        };
        findings.add(Diagnostic::error("selector", value.span(), message).help(help));
        return None;
    };
    let value = fields.get(key)?;
    match *key {
        "dscp" => {
            let number = findings.integer(key, value, 0, 63)?;
            u8::try_from(number.value).ok().map(Selector::Dscp)
        }
        "vlan" => {
            let number = findings.integer(key, value, 1, 4094)?;
            u16::try_from(number.value).ok().map(Selector::Vlan)
        }
        "uid" => {
            if let DeValue::String(_) = value.get_ref() {
                let message = "`uid` must be a number: user names differ between hosts";
                findings.add(
                    Diagnostic::error("type", value.span(), message)
                        .help("write the number that `id -u NAME` prints"),
                );
                return None;
            }
            findings.integer(key, value, 0, u32::MAX - 1).map(|n| Selector::Uid(n.value))
        }
        _ => {
            let text = findings.string(key, value)?;
            let selector = match *key {
                "cgroup" => values::cgroup(&text.value).map(Selector::Cgroup),
                "mark" => {
                    values::mark(&text.value).map(|(value, mask)| Selector::Mark { value, mask })
                }
                "source" => values::rule_prefix(&text.value).map(Selector::Source),
                _ => values::interface(&text.value).map(Selector::Interface),
            };
            findings.check(text.span, selector)
        }
    }
}

fn read_test(findings: &mut Findings, fields: &Fields<'_, '_>) -> Option<Test> {
    let tag = read_reference(findings, fields, "tag", "write the name of a tag");
    let mut list = |key: &'static str| match fields.get(key) {
        Some(value) => findings.strings(key, value, endpoint),
        None => Vec::new(),
    };
    let (reach, refuse) = (list("reach"), list("refuse"));
    Some(Test { tag: tag?, reach, refuse })
}

#[cfg(test)]
mod tests;
