//! `exposure`: what tags may reach, from the policy and the data alone: by location and control, and by
//! operator.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{
    Global, OK,
    census::{self, Count, GroupReport, Marks, Whose, amount, networks, thousands},
    inputs,
    output::{Cell, Output, Paint, Table},
};
use crate::{
    data::dataset::Dataset,
    policy::{
        self, Environment,
        change::{self, Version},
        compare::{Differ, Judge, Row, Traffic, walk},
        meta::TagMeta,
    },
    text::visible,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent exposure --tag sovereign
  sov-agent exposure --policy policy.toml
  sov-agent --format json exposure --tag general --policy policy.toml

Counts are exact and about verdicts: a tag in audit mode reaches everything. IPv6 addresses that carry an
IPv4 address (NAT64, 6to4, Teredo) are judged by it and not counted again.")]
pub struct Args {
    /// Tag of the traffic; without it every tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Policy file; without it the embedded default profile
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    policy: Option<PathBuf>,
    /// An embedded profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Folder with MMDB files, prefix lists and operators.csv over the embedded data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Operators that are listed; JSON has all of them
    #[arg(long, value_name = "N", default_value_t = 10)]
    operators: usize,
}

/// What one tag reaches.
struct Reach<'a> {
    tag: &'a TagMeta,
    total: Count,
    /// Of those, where only some traffic passes.
    partly: Count,
    by_whom: BTreeMap<Whose, Count>,
}

#[derive(Serialize)]
struct Report<'a> {
    policy: &'a str,
    hash: &'a str,
    datasets: &'a [String],
    tags: Vec<TagReport<'a>>,
}

#[derive(Serialize)]
struct TagReport<'a> {
    tag: &'a str,
    tier: &'a str,
    mode: &'a str,
    ipv4: String,
    ipv6: String,
    /// Of those, where only some protocols and ports pass.
    partly_ipv4: String,
    partly_ipv6: String,
    by: Vec<GroupReport<'a>>,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let now = inputs::now();
    let data = inputs::read_data(args.data.as_deref(), now)?;
    let parsed =
        policy::parse(inputs::read_policy(args.policy.as_deref(), args.profile.as_deref())?);
    let compiled = inputs::compile_or_report(&parsed, &data, &Environment::default(), now, global)?;
    let of = Version { parsed: &parsed, compiled: &compiled };
    let meta = &compiled.meta;
    let tags: Vec<&TagMeta> = match &args.tag {
        None => meta.tags.iter().collect(),
        Some(name) => vec![inputs::tag(meta, name)?],
    };
    let marks = Marks::of(&data);
    let reaches: Vec<Reach<'_>> =
        tags.into_iter().map(|tag| reach(of, tag, &data, &marks, now)).collect();
    let mut out = Output::new(global);
    if out.is_json() {
        let (policy, hash, datasets) = (&meta.name, &meta.hash, &meta.datasets);
        out.json(&Report { policy, hash, datasets, tags: reaches.iter().map(report).collect() })?;
    } else {
        for (i, reach) in reaches.iter().enumerate() {
            if i > 0 {
                writeln!(out)?;
            }
            write(&mut out, reach, args.operators)?;
        }
    }
    out.finish()?;
    Ok(ExitCode::from(OK))
}

fn reach<'a>(
    of: Version<'a>,
    tag: &'a TagMeta,
    data: &Dataset,
    marks: &Marks,
    now: u64,
) -> Reach<'a> {
    let row = change::row(of, Some(&tag.name));
    let mut differ = Differ::new(Row { judge: Judge::Closed, ..row }, row, now);
    let mut whose: BTreeMap<u32, Whose> = BTreeMap::new();
    let mut reach =
        Reach { tag, total: Count::default(), partly: Count::default(), by_whom: BTreeMap::new() };
    walk(row.spec, row.spec, marks.both(), |segment| {
        let gained = &differ.of(segment.old, segment.new).gained;
        if *gained == Traffic::None {
            return;
        }
        reach.total.add(&segment);
        if *gained != Traffic::All {
            reach.partly.add(&segment);
        }
        let whose = whose.entry(segment.mark).or_insert_with(|| Whose::of(data, segment.mark));
        reach.by_whom.entry(whose.clone()).or_default().add(&segment);
    });
    reach
}

fn report<'a>(reach: &'a Reach<'_>) -> TagReport<'a> {
    TagReport {
        tag: &reach.tag.name,
        tier: &reach.tag.tier,
        mode: &reach.tag.mode,
        ipv4: reach.total.v4.to_string(),
        ipv6: reach.total.v6.to_string(),
        partly_ipv4: reach.partly.v4.to_string(),
        partly_ipv6: reach.partly.v6.to_string(),
        by: reach.by_whom.iter().map(|(whose, count)| GroupReport::new(whose, *count)).collect(),
    }
}

fn write(out: &mut Output, reach: &Reach<'_>, operators: usize) -> anyhow::Result<()> {
    let head = out.paint(Paint::Bold, &visible(&reach.tag.name)).into_owned();
    let (tier, mode) = (visible(&reach.tag.tier), &reach.tag.mode);
    write!(out, "{head} (tier {tier}, {mode}) reaches {}", amount(reach.total))?;
    if reach.partly != Count::default() {
        write!(out, "; some traffic only: {}", amount(reach.partly))?;
    }
    writeln!(out)?;
    let mut places: BTreeMap<(&str, &str), Count> = BTreeMap::new();
    for (whose, count) in &reach.by_whom {
        let place = places.entry((&whose.location, &whose.control)).or_default();
        place.v4 = place.v4.saturating_add(count.v4);
        place.v6 = place.v6.saturating_add(count.v6);
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(_, count)| std::cmp::Reverse((count.v4, count.v6)));
    let mut table = Table::new(&["  LOCATION", "CONTROL", "IPV4", "IPV6"]).right(&[2, 3]);
    for ((location, control), count) in places {
        table.row([
            Cell::from(format!("  {location}")),
            control.into(),
            thousands(count.v4).into(),
            networks(count.v6).into(),
        ]);
    }
    out.table(&table)?;
    writeln!(out)?;
    census::write_operators(out, &reach.by_whom, operators)
}
