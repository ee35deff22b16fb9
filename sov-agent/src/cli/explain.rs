//! `explain`: what the policy says about destinations, and why. Runs the kernel's classifier on the image.

mod narrate;

use std::{io::Write as _, net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::bail;
use serde::Serialize;

use super::{
    FINDING, Global, OK, USAGE, inputs, logging,
    lookup::Facts,
    output::{Cell, Output, Paint, Table},
};
use crate::{
    data::dataset::Dataset,
    policy::{
        self, Compiled, Environment, Parsed,
        meta::{RuleMeta, TagMeta},
        model::{Endpoint, Tier},
        parse::values,
        reach::{ANY, Sample},
    },
    text::visible,
};
use sov_common::verdict::Reason;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent explain --tag sovereign 8.8.8.8 54.250.0.1:443/tcp '[2001:e40::1]:443/tcp'
  sov-agent explain --tag general --policy policy.toml 203.0.113.10:443/tcp
  sov-agent --format json explain --tag sovereign - < destinations.txt

A destination without a port is judged as traffic that no port rule names.
Exit status: 0 all allowed, 1 some blocked (in audit mode too), 2 an input is no destination.")]
pub struct Args {
    /// Tag of the traffic
    #[arg(long, value_name = "TAG")]
    tag: String,
    /// Policy file; without it the embedded default profile
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    policy: Option<PathBuf>,
    /// An embedded profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Folder with MMDB files, prefix lists and operators.csv over the embedded data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// ADDR, ADDR:PORT/tcp, [V6]:PORT/udp or ADDR/icmp; `-` reads them from stdin, one a line
    #[arg(required = true, value_name = "DEST", allow_hyphen_values = true)]
    destinations: Vec<String>,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let now = inputs::now();
    let source = inputs::read_policy(args.policy.as_deref(), args.profile.as_deref())?;
    let data = inputs::read_data(args.data.as_deref(), now)?;
    let parsed = policy::parse(source);
    let compiled = inputs::compile_or_report(&parsed, &data, &Environment::default(), now, global)?;
    let tag = inputs::tag(&compiled.meta, &args.tag)?;
    let (Some(number), Some(tier)) = (
        compiled.meta.tier_index(&tag.tier),
        parsed.policy.tiers.iter().find(|tier| tier.name.value == tag.tier),
    ) else {
        bail!("tag `{}` has no tier", tag.name);
    };
    let judge = Judge { compiled: &compiled, parsed: &parsed, data: &data, tag, tier, number, now };
    let mut answers = Answers { judge, out: Output::new(global), blocked: false, invalid: false };
    for text in &args.destinations {
        if text == "-" {
            inputs::for_each_line(
                &mut answers,
                |answers, line, text| answers.line(line, text),
                |answers| Ok(answers.out.flush()?),
            )?;
        } else {
            answers.answer(text)?;
        }
    }
    answers.finish()
}

/// Everything that an answer is made from.
struct Judge<'a> {
    compiled: &'a Compiled,
    parsed: &'a Parsed,
    data: &'a Dataset,
    tag: &'a TagMeta,
    tier: &'a Tier,
    number: usize,
    now: u64,
}

/// One answer, as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    destination: &'a str,
    tag: &'a str,
    mode: &'a str,
    /// `allow` or `block`, before the mode is applied.
    verdict: &'static str,
    reason: &'static str,
    tier: &'a str,
    /// Rule id; the policy line is beside it.
    rule: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<&'a str>,
    class: u16,
    #[serde(flatten)]
    facts: Facts<'a>,
}

impl<'a> Judge<'a> {
    fn judge<'t>(&'t self, text: &'t str, to: &Endpoint) -> (Answer<'t>, Option<Reason>) {
        let sample = Sample { protocol: to.protocol.unwrap_or(ANY), port: to.port.unwrap_or(0) };
        let now = u32::try_from(self.now).unwrap_or(u32::MAX);
        let decision = policy::judge(&self.compiled.image, self.number, to.address, sample, now);
        let reason = Reason::from_u8(decision.reason);
        let rule = self.rule(decision.rule);
        let answer = Answer {
            destination: text,
            tag: &self.tag.name,
            mode: &self.tag.mode,
            verdict: if decision.allow { "allow" } else { "block" },
            reason: reason.map_or("unknown", Reason::as_str),
            tier: &self.tag.tier,
            rule: rule.map(|rule| rule.id),
            rule_line: rule.map(|rule| rule.line),
            owner: rule.and_then(|rule| rule.owner.as_deref()),
            ticket: rule.and_then(|rule| rule.ticket.as_deref()),
            class: decision.class,
            facts: Facts::of(self.data, &self.compiled.meta.nat64, to.address),
        };
        (answer, reason)
    }

    fn rule(&self, id: u16) -> Option<&'a RuleMeta> {
        self.compiled.meta.rule(id)
    }
}

/// Writes answers as they come.
struct Answers<'a> {
    judge: Judge<'a>,
    out: Output,
    blocked: bool,
    invalid: bool,
}

impl Answers<'_> {
    fn line(&mut self, number: usize, text: Option<&str>) -> anyhow::Result<()> {
        let Some(text) = text else {
            self.refuse(&format!("stdin:{number}: the line is too long for a destination"));
            return Ok(());
        };
        match values::endpoint(text) {
            Ok(to) => self.write(text, &to, false),
            Err(wrong) => {
                self.refuse(&format!("stdin:{number}: {}; {}", wrong.message, wrong.help));
                Ok(())
            }
        }
    }

    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        match values::endpoint(text) {
            Ok(to) => self.write(text, &to, true),
            Err(wrong) => {
                self.refuse(&format!("{}; {}", wrong.message, wrong.help));
                Ok(())
            }
        }
    }

    fn refuse(&mut self, message: &str) {
        logging::error(&visible(message));
        self.invalid = true;
    }

    fn write(&mut self, text: &str, to: &Endpoint, long: bool) -> anyhow::Result<()> {
        let (answer, reason) = self.judge.judge(text, to);
        let allowed = answer.verdict == "allow";
        self.blocked |= !allowed;
        if self.out.is_json() {
            self.out.json(&answer)?;
            return Ok(());
        }
        let paint = if allowed { Paint::Green } else { Paint::Red };
        let verdict = self.out.paint(paint, answer.verdict).into_owned();
        let rule = answer.rule.and_then(|id| self.judge.rule(id));
        let story = narrate::Story {
            facts: &answer.facts,
            tier: self.judge.tier,
            reason,
            rule,
            allowed,
            policy: &self.judge.parsed.policy,
        };
        let place = text_of(to.address, text);
        writeln!(self.out, "{verdict}  {place}  {}: {}", answer.reason, visible(&story.summary()))?;
        if !long {
            return Ok(());
        }
        let mut table = Table::new(&[]);
        for step in story.steps() {
            let mut cells: Vec<Cell> = vec![format!("  {}", step.name).into(), step.text.into()];
            if step.decides {
                let (paint, text) =
                    if allowed { (Paint::Green, "<- allows") } else { (Paint::Red, "<- blocks") };
                cells.push(Cell::painted(paint, text));
            }
            table.row(cells);
        }
        self.out.table(&table)?;
        let class = answer.class;
        let mode = match (allowed, answer.mode) {
            (false, "audit") => "; audit mode: the packet passes and is recorded as would_block",
            _ => "",
        };
        let (tag, tier) = (answer.tag, answer.tier);
        writeln!(self.out, "  tag {tag}, tier {tier}, class {class}{mode}")?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<ExitCode> {
        self.out.finish()?;
        Ok(ExitCode::from(match (self.invalid, self.blocked) {
            (true, _) => USAGE,
            (false, true) => FINDING,
            (false, false) => OK,
        }))
    }
}

/// The destination as it was written, with the address in its short form where they differ.
fn text_of(address: IpAddr, text: &str) -> String {
    let short = address.to_string();
    if text.contains(&short) { text.to_owned() } else { format!("{text} ({short})") }
}
