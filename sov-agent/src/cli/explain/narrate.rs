//! A verdict in plain words. Retells what the classifier decided, in the order of judgement; decides
//! nothing itself.

use std::fmt::Display;

use crate::{
    cli::lookup::Facts,
    policy::{
        countries,
        meta::{RuleKind, RuleMeta},
        model::{Policy, Set, Spanned, Tier},
    },
};
use sov_common::verdict::Reason;

/// One judgement and what it was about.
pub(super) struct Story<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) tier: &'a Tier,
    pub(super) reason: Option<Reason>,
    pub(super) rule: Option<&'a RuleMeta>,
    pub(super) allowed: bool,
    pub(super) policy: &'a Policy,
}

/// One stage of the judgement.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) text: String,
    pub(super) decides: bool,
}

impl Story<'_> {
    /// One line.
    pub(super) fn summary(&self) -> String {
        let facts = self.facts;
        let place = place(&facts.location);
        let owner = place_of_control(facts);
        match self.reason {
            Some(Reason::Zone) => format!("in {}", self.rule_words()),
            Some(Reason::Exception | Reason::AllowRule | Reason::DenyRule) => self.rule_words(),
            Some(Reason::TierMatch) => format!("{place}, {owner}"),
            Some(Reason::ForeignLocation) => place,
            Some(Reason::ForeignControl) => format!("{place}, but {owner}"),
            Some(Reason::ContestedControl) => {
                format!("{place}, but who controls {} is contested", operator(facts))
            }
            Some(Reason::UnlistedOperator) => {
                format!("{place}, but the tier does not accept {} ({owner})", operator(facts))
            }
            Some(Reason::Unlocatable) if facts.location == "anycast" => {
                "announced from many places at once".to_owned()
            }
            Some(Reason::Unlocatable) if facts.location == "unknown" => {
                "nobody knows where it is".to_owned()
            }
            Some(Reason::Unlocatable) => format!(
                "{place} by {} of {} sources wanted",
                facts.sources, self.tier.min_sources.value
            ),
            Some(Reason::Unannounced) => "no network announces it".to_owned(),
            Some(Reason::Scope) if self.allowed => "loopback".to_owned(),
            Some(Reason::Scope) => format!("{} address in no zone of the tier", facts.scope),
            Some(Reason::Port) => "a rule allows this address, but not this traffic".to_owned(),
            Some(Reason::Malformed) => "IPv4-mapped addresses have no place on the wire".to_owned(),
            Some(other) => other.as_str().to_owned(),
            None => "unknown reason".to_owned(),
        }
    }

    /// Every stage up to the one that decided.
    pub(super) fn steps(&self) -> Vec<Step> {
        let facts = self.facts;
        let mut steps = Vec::new();
        let stage = self.stage();
        let mut add = |name, text: String, own: Stage| {
            if own <= stage {
                steps.push(Step { name, text, decides: own == stage });
            }
        };
        let inside = match (facts.embedded, facts.embedding) {
            (Some(address), Some(kind)) => {
                format!("{} (the {kind} address of {address})", facts.scope)
            }
            _ => facts.scope.to_owned(),
        };
        add("scope", inside, Stage::Scope);
        let rules = self.tier.allow.len() + self.tier.deny.len();
        let spoken = match (stage, self.rule) {
            (Stage::Rules, Some(_)) => self.rule_words(),
            (Stage::Rules, None) => "a rule allows this address for other traffic only".to_owned(),
            _ if rules == 0 => "none".to_owned(),
            _ => format!("none of {rules} speaks"),
        };
        add("rules", spoken, Stage::Rules);
        let zones: Vec<_> = self.tier.zones.iter().map(|zone| zone.value.as_str()).collect();
        let zone = match stage {
            Stage::Zones => self.rule_words(),
            _ if zones.is_empty() => "none".to_owned(),
            _ => format!("outside {}", zones.join(", ")),
        };
        add("zones", zone, Stage::Zones);
        if self.reason == Some(Reason::Scope) {
            let text = format!("{} space is trusted by rules and zones only", facts.scope);
            add("kind", text, Stage::Kind);
            return steps;
        }
        if stage == Stage::Operator {
            add("operator", self.rule_words(), Stage::Operator);
            return steps;
        }
        let among = |set: String| format!("the tier accepts {set}");
        let text = format!("{} - {}", place(&facts.location), among(shown(&self.tier.location)));
        add("location", text, Stage::Location);
        let wanted = self.tier.min_sources.value;
        add("sources", format!("{} agree - {wanted} wanted", facts.sources), Stage::Sources);
        let origin = match facts.asn {
            0 => "not announced".to_owned(),
            asn => format!("AS{asn} {}", facts.asn_name.unwrap_or("")).trim_end().to_owned(),
        };
        add("origin", origin, Stage::Origin);
        let basis = if self.tier.catalog_only { ", by catalog only" } else { "" };
        let accepts = among(shown(&self.tier.control));
        add("control", format!("{} - {accepts}{basis}", place_of_control(facts)), Stage::Control);
        let accepts = match &self.tier.operators {
            Set::Any => "any".to_owned(),
            set => shown(set),
        };
        add("operator", format!("{} - {}", operator(facts), among(accepts)), Stage::Operators);
        steps
    }

    fn stage(&self) -> Stage {
        match self.reason {
            Some(Reason::Scope) if self.allowed => Stage::Scope,
            Some(Reason::Malformed) | None => Stage::Scope,
            Some(Reason::Scope) => Stage::Kind,
            Some(Reason::Zone) => Stage::Zones,
            Some(Reason::DenyRule)
                if self.rule.is_some_and(|rule| rule.kind == RuleKind::OperatorDeny) =>
            {
                Stage::Operator
            }
            Some(Reason::ForeignLocation) => Stage::Location,
            Some(Reason::Unlocatable) if self.facts.sources > 0 && self.located() => Stage::Sources,
            Some(Reason::Unlocatable) => Stage::Location,
            Some(Reason::Unannounced) => Stage::Origin,
            Some(Reason::ForeignControl | Reason::ContestedControl) => Stage::Control,
            Some(Reason::UnlistedOperator) if self.operators_decide() => Stage::Operators,
            Some(Reason::UnlistedOperator) => Stage::Control,
            Some(Reason::TierMatch) => Stage::Operators,
            Some(_) => Stage::Rules,
        }
    }

    fn located(&self) -> bool {
        !matches!(self.facts.location.as_str(), "anycast" | "unknown")
    }

    /// Known by the catalog and not in the list.
    fn operators_decide(&self) -> bool {
        !matches!(self.tier.operators, Set::Any)
            && self.facts.control != "unknown"
            && (!self.tier.catalog_only || self.facts.control_basis == "catalog")
    }

    fn rule_words(&self) -> String {
        let Some(rule) = self.rule else { return "no rule".to_owned() };
        let what = match (rule.kind, &rule.prefix, &rule.operator, &rule.zone) {
            (RuleKind::Zone, _, _, Some(zone)) => {
                let listed = self.policy.zones.iter().find(|known| known.name.value == *zone);
                let size = listed.map_or(0, |zone| zone.prefixes.len());
                format!("zone {zone} ({size} prefixes)")
            }
            (RuleKind::OperatorDeny, _, Some(operator), _) => format!("deny operator {operator}"),
            (kind, Some(prefix), ..) => format!("{} {prefix}", kind.as_str()),
            (kind, None, ..) => format!("{} (one of {} alike)", kind.as_str(), rule.entries),
        };
        let mut text = format!("{what}, line {}", rule.line);
        for (label, value) in
            [("owner", &rule.owner), ("ticket", &rule.ticket), ("reason", &rule.reason)]
        {
            if let Some(value) = value {
                text += &format!(", {label} {value}");
            }
        }
        if let Some(until) = rule.until {
            let time = time::OffsetDateTime::from_unix_timestamp(i64::from(until)).ok();
            let format = &time::format_description::well_known::Rfc3339;
            if let Some(text_of) = time.and_then(|time| time.format(format).ok()) {
                text += &format!(", until {text_of}");
            }
        }
        text
    }
}

/// In the order of judgement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Scope,
    Rules,
    Zones,
    Kind,
    Operator,
    Location,
    Sources,
    Origin,
    Control,
    Operators,
}

fn place(code: &str) -> String {
    match code {
        "anycast" => "announced from many places".to_owned(),
        "unknown" => "of unknown location".to_owned(),
        _ => format!("located in {}", countries::name(code)),
    }
}

fn place_of_control(facts: &Facts<'_>) -> String {
    match (facts.control.as_str(), facts.control_basis) {
        ("contested", _) => "of contested control".to_owned(),
        ("unknown", _) => "of unknown control".to_owned(),
        (code, "catalog") => {
            format!("controlled from {} ({})", countries::name(code), operator(facts))
        }
        (code, _) => format!("registered in {}", countries::name(code)),
    }
}

fn operator(facts: &Facts<'_>) -> String {
    match (facts.operator_name, facts.asn_name, facts.asn) {
        (Some(name), ..) => name.to_owned(),
        (None, Some(name), _) => name.to_owned(),
        (None, None, 0) => "no operator".to_owned(),
        (None, None, asn) => format!("AS{asn}"),
    }
}

fn shown<T: Display>(set: &Set<T>) -> String {
    match set {
        Set::Any => "any".to_owned(),
        Set::Of(items) if items.is_empty() => "nothing".to_owned(),
        Set::Of(items) => {
            let text = |item: &Spanned<T>| item.value.to_string();
            items.iter().map(text).collect::<Vec<_>>().join(", ")
        }
    }
}
