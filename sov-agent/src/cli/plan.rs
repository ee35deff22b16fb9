//! `plan`: what a policy would change, exactly, before it does. Compares by [`crate::policy::compare`];
//! owns grouping, counting and wording.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    FINDING, Global, OK,
    census::{self, Count, GroupReport, Marks, Whose, amount, more},
    inputs,
    output::{Output, Paint},
};
use crate::{
    data::dataset::Dataset,
    policy::{
        self, Environment,
        change::{self, FieldChange, TagChange, Version},
        compare::{Differ, Segment, Traffic, walk},
    },
    text::visible,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent plan new.toml --against policy.toml
  sov-agent plan new.toml --data new-data --against policy.toml --against-data data
  sov-agent --format json plan new.toml --against policy.toml > plan.json

Addresses are counted by verdict; a tag in audit mode blocks nothing, whatever its verdicts. IPv6
addresses that carry an IPv4 address (NAT64, 6to4, Teredo) change with it and are not counted again.
Exit status: 0 nothing changes, 1 something does, 2 a policy cannot be used.")]
pub struct Args {
    /// Policy that would be applied; `-` reads stdin
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Policy that is in force; without it the embedded default profile
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// Data of the new policy: a folder over the embedded data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Data of the old policy, where they differ from the new one's
    #[arg(long, value_name = "DIR")]
    against_data: Option<PathBuf>,
    /// Prefixes that are listed of each change; JSON has all of them
    #[arg(long, value_name = "N", default_value_t = 10)]
    prefixes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    NewlyAllowed,
    NewlyBlocked,
}

impl Kind {
    const ALL: [Self; 2] = [Self::NewlyAllowed, Self::NewlyBlocked];

    fn words(self) -> &'static str {
        match self {
            Self::NewlyAllowed => "newly allowed",
            Self::NewlyBlocked => "newly blocked",
        }
    }
}

/// Neighbouring addresses with the same change.
#[derive(Clone, Debug)]
struct Range {
    v6: bool,
    first: u128,
    last: u128,
    /// `None` = all traffic.
    traffic: Option<String>,
}

#[derive(Default)]
struct Outcome {
    total: Count,
    /// Of those, where only some traffic changes.
    partly: Count,
    by_whom: BTreeMap<Whose, Count>,
    ranges: Vec<Range>,
}

impl Outcome {
    fn add(&mut self, segment: &Segment, traffic: &Traffic, whose: &Whose) {
        let some = match traffic {
            Traffic::None => return,
            Traffic::All => None,
            Traffic::Some(text) => Some(text.clone()),
        };
        self.total.add(segment);
        if some.is_some() {
            self.partly.add(segment);
        }
        self.by_whom.entry(whose.clone()).or_default().add(segment);
        match self.ranges.last_mut() {
            Some(last)
                if last.v6 == segment.v6
                    && last.last.checked_add(1) == Some(segment.first)
                    && last.traffic == some =>
            {
                last.last = segment.last;
            }
            _ => self.ranges.push(Range {
                v6: segment.v6,
                first: segment.first,
                last: segment.last,
                traffic: some,
            }),
        }
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let now = inputs::now();
    let environment = Environment::default();
    let data = inputs::read_data(args.data.as_deref(), now)?;
    let other = match &args.against_data {
        Some(folder) => Some(inputs::read_data(Some(folder), now)?),
        None => None,
    };
    let sources = [
        inputs::read_policy(args.against.as_deref(), None)?,
        inputs::read_policy(Some(&args.new), None)?,
    ];
    let [old, new] = sources.map(policy::parse);
    let old_data = other.as_ref().unwrap_or(&data);
    let compiled = [
        inputs::compile_or_report(&old, old_data, &environment, now, global)?,
        inputs::compile_or_report(&new, &data, &environment, now, global)?,
    ];
    let old = Version { parsed: &old, compiled: &compiled[0] };
    let new = Version { parsed: &new, compiled: &compiled[1] };
    let tags = change::tags(old, new);
    let outcomes = compare(&tags, &data, now);
    let same = is_same(old, new, &tags, &outcomes);
    let mut out = Output::new(global);
    if out.is_json() {
        out.json(&report(old, new, &tags, &outcomes, same))?;
    } else {
        write_text(&mut out, args.prefixes, [old, new], &tags, &outcomes, same)?;
    }
    out.finish()?;
    Ok(ExitCode::from(if same { OK } else { FINDING }))
}

fn is_same(
    old: Version<'_>,
    new: Version<'_>,
    tags: &[TagChange<'_>],
    outcomes: &[[Outcome; 2]],
) -> bool {
    change::untagged(old) == change::untagged(new)
        && tags.iter().all(|tag| tag.status() == "kept" && tag.fields.is_empty())
        && outcomes.iter().flatten().all(|outcome| outcome.ranges.is_empty())
}

/// Newly allowed and newly blocked of every tag.
fn compare(tags: &[TagChange<'_>], data: &Dataset, now: u64) -> Vec<[Outcome; 2]> {
    let marks = Marks::of(data);
    let mut whose: BTreeMap<u32, Whose> = BTreeMap::new();
    tags.iter()
        .map(|tag| {
            let mut outcomes = [Outcome::default(), Outcome::default()];
            let [old, new] = tag.rows;
            let mut differ = Differ::new(old, new, now);
            walk(old.spec, new.spec, marks.both(), |segment| {
                let difference = differ.of(segment.old, segment.new);
                if difference.gained == Traffic::None && difference.lost == Traffic::None {
                    return;
                }
                let whose =
                    whose.entry(segment.mark).or_insert_with(|| Whose::of(data, segment.mark));
                outcomes[0].add(&segment, &difference.gained, whose);
                outcomes[1].add(&segment, &difference.lost, whose);
            });
            outcomes
        })
        .collect()
}

/// The prefixes that a range consists of.
fn prefixes(range: &Range) -> Vec<String> {
    use ipnet::{Ipv4Subnets, Ipv6Subnets};
    if range.v6 {
        let (first, last) = (range.first.into(), range.last.into());
        Ipv6Subnets::new(first, last, 0).map(|net| net.to_string()).collect()
    } else {
        let (first, last) = ((range.first as u32).into(), (range.last as u32).into());
        Ipv4Subnets::new(first, last, 0).map(|net| net.to_string()).collect()
    }
}

#[derive(Serialize)]
struct Report<'a> {
    old: Named<'a>,
    new: Named<'a>,
    same: bool,
    tags: Vec<TagReport<'a>>,
}

#[derive(Serialize)]
struct Named<'a> {
    policy: &'a str,
    hash: &'a str,
    datasets: &'a [String],
    /// Tag of traffic that no selector matches.
    untagged: Option<&'a str>,
}

#[derive(Serialize)]
struct TagReport<'a> {
    tag: &'a str,
    status: &'static str,
    mode: Option<&'a str>,
    changes: &'a [FieldChange],
    newly_allowed: ChangeReport<'a>,
    newly_blocked: ChangeReport<'a>,
}

/// Numbers of addresses are strings: they exceed what JSON readers take for a number.
#[derive(Serialize)]
struct ChangeReport<'a> {
    ipv4: String,
    ipv6: String,
    /// Of those, where only some protocols and ports change.
    partly_ipv4: String,
    partly_ipv6: String,
    by: Vec<GroupReport<'a>>,
    prefixes: Vec<PrefixReport<'a>>,
}

#[derive(Serialize)]
struct PrefixReport<'a> {
    prefix: String,
    /// `all`, or protocols and ports.
    traffic: &'a str,
}

fn report<'a>(
    old: Version<'a>,
    new: Version<'a>,
    tags: &'a [TagChange<'a>],
    outcomes: &'a [[Outcome; 2]],
    same: bool,
) -> Report<'a> {
    let named = |of: Version<'a>| Named {
        policy: &of.compiled.meta.name,
        hash: &of.compiled.meta.hash,
        datasets: &of.compiled.meta.datasets,
        untagged: change::untagged(of),
    };
    let tags = tags.iter().zip(outcomes).map(|(tag, [allowed, blocked])| TagReport {
        tag: tag.name,
        status: tag.status(),
        mode: tag.new.map(|tag| tag.mode.as_str()),
        changes: &tag.fields,
        newly_allowed: change_report(allowed),
        newly_blocked: change_report(blocked),
    });
    Report { old: named(old), new: named(new), same, tags: tags.collect() }
}

fn change_report(outcome: &Outcome) -> ChangeReport<'_> {
    let by = outcome.by_whom.iter().map(|(whose, count)| GroupReport::new(whose, *count));
    let listed = outcome.ranges.iter().flat_map(|range| {
        let traffic = range.traffic.as_deref().unwrap_or("all");
        prefixes(range).into_iter().map(move |prefix| PrefixReport { prefix, traffic })
    });
    ChangeReport {
        ipv4: outcome.total.v4.to_string(),
        ipv6: outcome.total.v6.to_string(),
        partly_ipv4: outcome.partly.v4.to_string(),
        partly_ipv6: outcome.partly.v6.to_string(),
        by: by.collect(),
        prefixes: listed.collect(),
    }
}

fn write_text(
    out: &mut Output,
    limit: usize,
    [old, new]: [Version<'_>; 2],
    tags: &[TagChange<'_>],
    outcomes: &[[Outcome; 2]],
    same: bool,
) -> anyhow::Result<()> {
    for (word, of) in [("old", old), ("new", new)] {
        let meta = &of.compiled.meta;
        let hash = meta.hash.get(..12).unwrap_or(&meta.hash);
        writeln!(
            out,
            "{word}: {} ({hash}), data {}",
            visible(&meta.name),
            meta.datasets.join(" ")
        )?;
    }
    if change::untagged(old) != change::untagged(new) {
        let name = |of| change::untagged(of).unwrap_or("passes");
        writeln!(out, "untagged traffic: {} -> {}", visible(name(old)), visible(name(new)))?;
    }
    if same {
        writeln!(out, "\nnothing changes")?;
        return Ok(());
    }
    for (tag, outcome) in tags.iter().zip(outcomes) {
        write_tag(out, limit, tag, outcome)?;
    }
    Ok(())
}

fn write_tag(
    out: &mut Output,
    limit: usize,
    tag: &TagChange<'_>,
    outcomes: &[Outcome; 2],
) -> anyhow::Result<()> {
    let head = out.paint(Paint::Bold, &visible(tag.name)).into_owned();
    let mode = tag.new.map_or("", |tag| tag.mode.as_str());
    match tag.status() {
        "added" => writeln!(out, "\n{head} ({mode}): new; compared with untagged traffic before")?,
        "removed" => writeln!(out, "\n{head}: removed; its traffic is untagged now")?,
        _ => writeln!(out, "\n{head} ({mode})")?,
    }
    for FieldChange { field, old, new } in &tag.fields {
        writeln!(out, "  {field}: {} -> {}", visible(old), visible(new))?;
    }
    let quiet = outcomes.iter().all(|outcome| outcome.ranges.is_empty());
    if quiet {
        writeln!(out, "  no verdict changes")?;
    }
    for (kind, outcome) in Kind::ALL.into_iter().zip(outcomes) {
        if outcome.ranges.is_empty() {
            continue;
        }
        let paint = if kind == Kind::NewlyAllowed { Paint::Yellow } else { Paint::Cyan };
        let words = out.paint(paint, kind.words()).into_owned();
        let partly = match (outcome.partly.v4, outcome.partly.v6) {
            (0, 0) => String::new(),
            _ => format!(" (some traffic only: {})", amount(outcome.partly)),
        };
        writeln!(out, "  {words}: {}{partly}", amount(outcome.total))?;
        census::write_operators(out, &outcome.by_whom, limit)?;
        let mut shown = 0;
        let mut all = 0;
        for range in &outcome.ranges {
            let list = prefixes(range);
            all += list.len();
            for prefix in list.iter().take(limit.saturating_sub(shown)) {
                let traffic =
                    range.traffic.as_deref().map_or_else(String::new, |t| format!("  {t}"));
                writeln!(out, "    {prefix}{traffic}")?;
                shown += 1;
            }
        }
        more(out, all, limit, "prefixes")?;
    }
    Ok(())
}
