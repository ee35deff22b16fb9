//! Two policies tag by tag: which tags stand for the same traffic, what was written differently, and
//! what each is judged by. Addresses are compared by [`super::compare`].

use serde::Serialize;

use super::{
    Compiled, Parsed,
    compare::{Judge, Row},
    meta::TagMeta,
    model::{Selector, Tag},
};

/// A policy as it was written and as it was compiled.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    pub parsed: &'a Parsed,
    pub compiled: &'a Compiled,
}

/// A tag of either policy.
pub struct TagChange<'a> {
    pub name: &'a str,
    pub old: Option<&'a TagMeta>,
    pub new: Option<&'a TagMeta>,
    /// What judges the traffic; a tag that is missing leaves it to what judges untagged traffic.
    pub rows: [Row<'a>; 2],
    pub fields: Vec<FieldChange>,
}

/// Something of a tag that is written differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    pub field: &'static str,
    pub old: String,
    pub new: String,
}

impl TagChange<'_> {
    pub fn status(&self) -> &'static str {
        match (self.old, self.new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "kept",
        }
    }

    pub fn field(&self, name: &str) -> Option<&FieldChange> {
        self.fields.iter().find(|change| change.field == name)
    }
}

/// Tags of the new policy in its order, then those that only the old one has.
pub fn tags<'a>(old: Version<'a>, new: Version<'a>) -> Vec<TagChange<'a>> {
    let mut out: Vec<TagChange<'a>> = (new.compiled.meta.tags.iter())
        .map(|tag| change(&tag.name, old.compiled.meta.tag(&tag.name), Some(tag), old, new))
        .collect();
    for tag in &old.compiled.meta.tags {
        if new.compiled.meta.tag(&tag.name).is_none() {
            out.push(change(&tag.name, Some(tag), None, old, new));
        }
    }
    out
}

/// What judges traffic without a tag: `None` = nothing, it passes.
pub fn untagged(of: Version<'_>) -> Option<&str> {
    of.compiled.meta.untagged.as_deref()
}

/// The row of a tag, by name; of what nobody judges without one.
pub fn row<'a>(of: Version<'a>, tag: Option<&str>) -> Row<'a> {
    let meta = &of.compiled.meta;
    let tier = tag.and_then(|name| meta.tag(name)).and_then(|tag| meta.tier_index(&tag.tier));
    let judge = match (tag, tier) {
        (None, _) => Judge::Nobody,
        (Some(_), Some(tier)) => Judge::Tier(tier),
        // A tag that is not there judges nothing well.
        (Some(_), None) => Judge::Closed,
    };
    Row { spec: &of.compiled.spec, judge }
}

fn change<'a>(
    name: &'a str,
    old: Option<&'a TagMeta>,
    new: Option<&'a TagMeta>,
    before: Version<'a>,
    after: Version<'a>,
) -> TagChange<'a> {
    let judged = |tag: Option<&TagMeta>, of: Version<'a>| match tag {
        Some(tag) => row(of, Some(&tag.name)),
        None => row(of, untagged(of)),
    };
    let mut fields = vec![];
    if let (Some(a), Some(b)) = (old, new) {
        let mut note = |field, old: String, new: String| {
            if old != new {
                fields.push(FieldChange { field, old, new });
            }
        };
        note("mode", a.mode.clone(), b.mode.clone());
        note("tier", a.tier.clone(), b.tier.clone());
        note("rank", a.rank.to_string(), b.rank.to_string());
        let replies = |tag: &TagMeta| if tag.replies { "allow" } else { "judge" }.to_owned();
        note("replies", replies(a), replies(b));
        note("response", a.response.clone(), b.response.clone());
        note("select", selectors(before, name), selectors(after, name));
    }
    TagChange { name, old, new, rows: [judged(old, before), judged(new, after)], fields }
}

/// All selectors of a tag in one order, so that lists with the same members are the same text.
fn selectors(of: Version<'_>, name: &str) -> String {
    let policy = &of.parsed.policy;
    let tag: Option<&Tag> = policy.tags.iter().find(|tag| tag.name.value == name);
    let mut all: Vec<String> =
        tag.into_iter().flat_map(|tag| &tag.select).map(|s| text(&s.value)).collect();
    if untagged(of) == Some(name) {
        all.push("untagged".to_owned());
    }
    all.sort();
    all.dedup();
    all.join(", ")
}

fn text(selector: &Selector) -> String {
    match selector {
        Selector::Cgroup(path) => format!("cgroup {path}"),
        Selector::Mark { value, mask } => format!("mark {value:#x}/{mask:#x}"),
        Selector::Source(net) => format!("source {net}"),
        Selector::Dscp(dscp) => format!("dscp {dscp}"),
        Selector::Vlan(vlan) => format!("vlan {vlan}"),
        Selector::Interface(name) => format!("interface {name}"),
        Selector::Uid(uid) => format!("uid {uid}"),
    }
}
