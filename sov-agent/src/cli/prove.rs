//! `prove`: claims about a policy, each exact for every address, port and later time, or a destination
//! where it fails. The comparing is [`crate::policy::compare`]'s.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::bail;
use serde::Serialize;

use super::{
    FINDING, Global, OK,
    census::Marks,
    inputs,
    output::{Output, Paint},
};
use crate::{
    data::{
        dataset::Dataset,
        model::{Country, Location},
    },
    policy::{
        self, Environment,
        change::{self, FieldChange, TagChange, Version},
        compare::{Witness, outside, reached},
        countries,
    },
    text::visible,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent prove new.toml --against policy.toml --only-shrinks
  sov-agent prove policy.toml --unreachable CN,RU --unreachable KP
  sov-agent prove policy.toml --subset sovereign general

Claims are about verdicts: a tag in audit mode blocks nothing, and from enforce to audit is no shrinking.
Exit status: 0 every claim is proven, 1 one is not, 2 a policy cannot be used.")]
#[command(group = clap::ArgGroup::new("claim").required(true).multiple(true))]
pub struct Args {
    /// Policy that the claims are about; `-` reads stdin
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
    /// No tag reaches anything that it did not reach before
    #[arg(long, group = "claim")]
    only_shrinks: bool,
    /// No tag loses anything that it reached before
    #[arg(long, group = "claim")]
    only_expands: bool,
    /// Every tag reaches what it reached before, no more and no less
    #[arg(long, group = "claim")]
    equal: bool,
    /// No tag reaches anything located in these countries
    #[arg(long, value_name = "CC", value_delimiter = ',', group = "claim")]
    unreachable: Vec<String>,
    /// The first tag reaches nothing that the second does not
    #[arg(long, num_args = 2, value_names = ["TAG", "OF"], group = "claim")]
    subset: Vec<String>,
    /// Only this tag, in all claims but `--subset`; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

/// One claim about one tag, and what came of it.
#[derive(Serialize)]
struct Proof {
    claim: String,
    tag: String,
    /// Of the tag in the new policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    proven: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// A destination that breaks the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// Unix seconds from which on it does; absent = now.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
}

#[derive(Serialize)]
struct Report<'a> {
    policy: &'a str,
    hash: &'a str,
    proven: bool,
    proofs: &'a [Proof],
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let now = inputs::now();
    let environment = Environment::default();
    let data = inputs::read_data(args.data.as_deref(), now)?;
    let parsed = policy::parse(inputs::read_policy(Some(&args.new), None)?);
    let compiled = inputs::compile_or_report(&parsed, &data, &environment, now, global)?;
    let new = Version { parsed: &parsed, compiled: &compiled };
    let mut proofs = vec![];
    if args.only_shrinks || args.only_expands || args.equal {
        let other = match &args.against_data {
            Some(folder) => Some(inputs::read_data(Some(folder), now)?),
            None => None,
        };
        let parsed = policy::parse(inputs::read_policy(args.against.as_deref(), None)?);
        let old_data = other.as_ref().unwrap_or(&data);
        let compiled = inputs::compile_or_report(&parsed, old_data, &environment, now, global)?;
        let old = Version { parsed: &parsed, compiled: &compiled };
        compared(args, old, new, now, &mut proofs)?;
    }
    unreachable(args, new, &data, now, &mut proofs)?;
    if let [tag, of] = &args.subset[..] {
        let rows = [known(new, tag)?, known(new, of)?].map(|name| change::row(new, Some(name)));
        let claim = format!("subset of {of}");
        let found = outside(rows[0], rows[1], now);
        proofs.push(proof(&claim, tag, new, found.map(|w| ("reaches more", w)), now));
    }
    let proven = proofs.iter().all(|proof| proof.proven);
    let mut out = Output::new(global);
    if out.is_json() {
        let meta = &compiled.meta;
        out.json(&Report { policy: &meta.name, hash: &meta.hash, proven, proofs: &proofs })?;
    } else {
        for proof in &proofs {
            write(&mut out, proof)?;
        }
    }
    out.finish()?;
    Ok(ExitCode::from(if proven { OK } else { FINDING }))
}

/// The claims about two policies.
fn compared(
    args: &Args,
    old: Version<'_>,
    new: Version<'_>,
    now: u64,
    proofs: &mut Vec<Proof>,
) -> anyhow::Result<()> {
    let tags = change::tags(old, new);
    for name in &args.tag {
        if !tags.iter().any(|tag| tag.name == *name) {
            known(new, name)?;
        }
    }
    for (asked, claim, shrinks, expands) in [
        (args.only_shrinks, "only shrinks", true, false),
        (args.only_expands, "only expands", false, true),
        (args.equal, "equal", true, true),
    ] {
        let chosen =
            |tag: &&TagChange<'_>| args.tag.is_empty() || args.tag.iter().any(|t| t == tag.name);
        for tag in tags.iter().filter(|_| asked).filter(chosen) {
            if let Some(why) = written(tag, old, new, shrinks, expands) {
                let failed = Proof {
                    why: Some(why),
                    proven: false,
                    ..proof(claim, tag.name, new, None, now)
                };
                proofs.push(failed);
                continue;
            }
            let [before, after] = tag.rows;
            let more = || outside(after, before, now).map(|w| ("newly reaches", w));
            let less = || outside(before, after, now).map(|w| ("no longer reaches", w));
            let found = Some(()).filter(|()| shrinks).and_then(|()| more());
            let found = found.or_else(|| Some(()).filter(|()| expands).and_then(|()| less()));
            proofs.push(proof(claim, tag.name, new, found, now));
        }
    }
    Ok(())
}

/// What is written of a tag that breaks a claim, whatever the addresses.
fn written(
    tag: &TagChange<'_>,
    old: Version<'_>,
    new: Version<'_>,
    shrinks: bool,
    expands: bool,
) -> Option<String> {
    let moved = |what: &str| {
        Some(format!("{what}: other traffic has the tag now, which addresses prove nothing about"))
    };
    match tag.status() {
        "added" => return moved("the tag is new"),
        "removed" => return moved("the tag is gone"),
        _ => {}
    }
    let told = |change: &FieldChange| format!("{} {} -> {}", change.field, change.old, change.new);
    for field in ["select", "rank"] {
        if let Some(change) = tag.field(field) {
            return moved(&told(change));
        }
    }
    if change::untagged(old) != change::untagged(new) {
        return moved("`untagged` is another");
    }
    for (field, freer) in [("mode", "audit"), ("replies", "allow")] {
        if let Some(change) = tag.field(field) {
            let breaks = if change.new == freer { shrinks } else { expands };
            if breaks {
                return Some(told(change));
            }
        }
    }
    None
}

fn unreachable(
    args: &Args,
    new: Version<'_>,
    data: &Dataset,
    now: u64,
    proofs: &mut Vec<Proof>,
) -> anyhow::Result<()> {
    if args.unreachable.is_empty() {
        return Ok(());
    }
    let marks = Marks::of(data);
    let mut tags: Vec<&str> = vec![];
    for name in &args.tag {
        tags.push(known(new, name)?);
    }
    if tags.is_empty() {
        tags.extend(new.compiled.meta.tags.iter().map(|tag| tag.name.as_str()));
    }
    for code in &args.unreachable {
        let country = Country::new(code).filter(|country| countries::known(country.as_str()));
        let Some(country) = country else {
            let hint = match countries::suggest(code) {
                Some((near, name)) => format!("did you mean {near} ({name})?"),
                None => "write an ISO 3166-1 code such as JP".to_owned(),
            };
            bail!("`{}` is no country; {hint}", code.escape_debug());
        };
        let there: Vec<bool> = (0..data.attribute_count())
            .map(|id| data.attributes(id as u32).location == Location::Country(country))
            .collect();
        let wanted = |mark: u32| there.get(mark as usize).copied().unwrap_or(false);
        for tag in &tags {
            let row = change::row(new, Some(tag));
            let found = reached(row, marks.both(), wanted, now);
            let claim = format!("never reaches {country}");
            proofs.push(proof(&claim, tag, new, found.map(|w| ("reaches", w)), now));
        }
    }
    Ok(())
}

fn proof(
    claim: &str,
    tag: &str,
    new: Version<'_>,
    broken: Option<(&str, Witness)>,
    now: u64,
) -> Proof {
    Proof {
        claim: claim.to_owned(),
        tag: tag.to_owned(),
        mode: new.compiled.meta.tag(tag).map(|tag| tag.mode.clone()),
        proven: broken.is_none(),
        why: broken.map(|(why, _)| why.to_owned()),
        destination: broken.map(|(_, witness)| witness.destination()),
        from: broken.map(|(_, witness)| witness.time).filter(|time| *time > now),
    }
}

/// The name of a tag of the policy.
fn known<'a>(of: Version<'a>, name: &str) -> anyhow::Result<&'a str> {
    inputs::tag(&of.compiled.meta, name).map(|tag| tag.name.as_str())
}

fn write(out: &mut Output, proof: &Proof) -> anyhow::Result<()> {
    let word = match proof.proven {
        true => out.paint(Paint::Green, "proven").into_owned(),
        false => out.paint(Paint::Red, "not so").into_owned(),
    };
    write!(out, "{word}  {}: {}", visible(&proof.tag), visible(&proof.claim))?;
    if let Some(why) = &proof.why {
        write!(out, "; {}", visible(why))?;
    }
    if let Some(destination) = &proof.destination {
        write!(out, " {destination}")?;
    }
    if let Some(from) = proof.from {
        write!(out, " from unix time {from} on")?;
    }
    writeln!(out)?;
    Ok(())
}
