//! Builds the stage, starts the agent, sends, compares. Says what happens through [`Event`]s; prints
//! nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    path::PathBuf,
    process::{ChildStdin, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use sov_common::verdict::{Reason, Verdict};

use super::{
    agent::Agent,
    bench::{self, Cost},
    guard::PLAIN,
    lab::Lab,
    plan::{self, Expected, Group, Observed, Probe, Seen, Tag, Via, differences},
    records::{OnRecord, Records},
    room::Room,
    sink::Sinks,
};
use crate::{
    control::status::{Counter, Status},
    flowlog::{record::Ledger, words::Word as _},
};

const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// A blocked flow is on record within this.
const RECORD_LIMIT: Duration = Duration::from_secs(1);
/// Arrivals that are wished for are waited for so long.
const ARRIVAL_LIMIT: Duration = Duration::from_millis(500);

/// What the stage was told.
pub struct Setting {
    /// The private cgroup folder, or why there is none.
    pub cgroup: Result<PathBuf, String>,
    /// This program.
    pub program: PathBuf,
}

/// One probe, from three sides.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub probe: Probe,
    pub observed: Observed,
    /// Empty = as expected.
    pub differences: Vec<String>,
}

/// What happens, as it happens.
pub enum Event<'a> {
    /// The agent runs; how long it took to start.
    Ready {
        agent: &'a Status,
        took: Duration,
    },
    Group(&'a Group),
    Probe(&'a Outcome),
    /// Probes that were left out, and why.
    Skipped {
        what: &'static str,
        why: &'a str,
    },
}

/// Everything that was observed.
pub struct Report {
    pub outcomes: Vec<Outcome>,
    /// The whole flow log, in the order in which the agent wrote it.
    pub records: Vec<OnRecord>,
    pub ledger: Ledger,
    /// The longest time until all flows of a group were on record after its last probe.
    pub slowest_record: Duration,
    pub cost: [Cost; 2],
    pub skipped: Vec<Skipped>,
    /// Expectations about the whole that did not hold.
    pub problems: Vec<String>,
    pub took: Duration,
}

#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    pub what: &'static str,
    pub why: String,
}

/// Everything, from nothing to nothing.
pub fn run(
    setting: &Setting,
    mut tell: impl FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let start = Instant::now();
    let room = Room::new(setting)?;
    let mut skipped = Vec::new();
    let lab = Lab::new()?;
    if let Err(why) = &setting.cgroup {
        skipped.push(Skipped { what: "probes of workloads tagged by cgroup", why: why.clone() });
    }
    if !lab.ipv6 {
        let why = "this kernel has no IPv6".into();
        skipped.push(Skipped { what: "IPv6 probes", why });
    }
    for Skipped { what, why } in &skipped {
        tell(Event::Skipped { what, why })?;
    }
    let sinks = Sinks::start(&lab)?;
    let cgroups = setting.cgroup.is_ok();
    let policy = plan::policy(cgroups);
    settle(&lab, setting)?;
    let mut agent = Agent::start(&room, setting, &lab, &policy)?;
    tell(Event::Ready { agent: &agent.status()?, took: start.elapsed() })?;

    let mut records = Records::open(&room.journal())?;
    let (mut outcomes, mut slowest_record) = (Vec::new(), Duration::ZERO);
    for group in plan::groups(lab.ipv6, cgroups) {
        tell(Event::Group(&group))?;
        let mut counted = Vec::new();
        let seen = send(&group, setting, &lab, |probe, ask| {
            let before = agent.status()?.counters;
            let seen = ask()?;
            wait_for_arrival(&sinks, probe);
            counted.push(moved(probe.tag, &before, &agent.status()?.counters));
            Ok(seen)
        })?;
        slowest_record = slowest_record.max(records.wait_for(&group, RECORD_LIMIT)?);
        for ((probe, seen), counted) in group.probes.iter().zip(seen).zip(counted) {
            let arrived = sinks.arrived(probe);
            // The log has what is blocked, or would be; the kernel counts what passes.
            let record = records.of(probe).or(counted.filter(|(v, _)| *v == Verdict::Allow));
            let observed = Observed { seen, arrived, record };
            let differences = differences(probe, &observed, cgroups);
            let outcome = Outcome { probe: probe.clone(), observed, differences };
            tell(Event::Probe(&outcome))?;
            outcomes.push(outcome);
        }
    }
    let mut problems = Vec::new();
    let ledger = agent.status()?.ledger;
    if !ledger.balances() || ledger.blocked == 0 {
        problems.push("the ledger does not balance".into());
    }
    let status = agent.stop()?;
    if !status.success() {
        problems.push(format!("the agent ended with {status}: {}", agent.last_words()));
    }
    if room.pins().read_dir().is_ok_and(|mut pins| pins.next().is_some()) {
        problems.push("the stopped agent left pins behind".into());
    }
    // What was blocked has had all the time since to leak.
    for Outcome { probe, observed, differences: found } in &mut outcomes {
        observed.arrived = sinks.arrived(probe);
        *found = differences(probe, observed, cgroups);
    }
    // The stop wrote the rest.
    let records = records.finish()?;
    let cost = bench::measure(&room.bpf().join("bench"), &plan::policy(false))?;
    Ok(Report {
        outcomes,
        records,
        ledger,
        slowest_record,
        cost,
        skipped,
        problems,
        took: start.elapsed(),
    })
}

/// Waits until every place answers: fresh links drop the first packets, and no agent is there yet.
fn settle(lab: &Lab, setting: &Setting) -> anyhow::Result<()> {
    let mut group = Group { tag: Tag::Untagged, via: Via::Nothing, probes: plan::hello(lab.ipv6) };
    let start = Instant::now();
    while start.elapsed() < SETTLE_LIMIT {
        let mut seen = send(&group, setting, lab, |_, ask| ask())?.into_iter();
        group.probes.retain(|_| seen.next().is_none_or(|seen| !seen.answered));
        if group.probes.is_empty() {
            return Ok(());
        }
    }
    let silent: Vec<_> = group.probes.iter().map(|p| p.destination.to_string()).collect();
    bail!("the private network does not work: no answer from {}", silent.join(", "))
}

fn wait_for_arrival(sinks: &Sinks, probe: &Probe) {
    let start = Instant::now();
    while probe.should_arrive() && sinks.arrived(probe) == 0 && start.elapsed() < ARRIVAL_LIMIT {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The verdict and reason of the tag whose counter moved; one that is not `allow` comes first.
fn moved(tag: Tag, before: &[Counter], after: &[Counter]) -> Expected {
    let packets = |of: &Counter| {
        let same =
            |c: &&Counter| (&c.tag, &c.verdict, &c.reason) == (&of.tag, &of.verdict, &of.reason);
        before.iter().find(same).map_or(0, |c| c.packets)
    };
    let found = after.iter().filter(|counter| {
        counter.tag.as_deref() == Some(tag.as_str()) && counter.packets > packets(counter)
    });
    let words = found.filter_map(|counter| {
        Some((Verdict::parse(&counter.verdict)?, Reason::parse(&counter.reason)?))
    });
    words.min_by_key(|(verdict, _)| *verdict == Verdict::Allow)
}

/// The group's process does its probes one after the other. `each` is called around every one.
fn send<'a>(
    group: &'a Group,
    setting: &Setting,
    lab: &Lab,
    each: impl FnMut(&'a Probe, &mut dyn FnMut() -> anyhow::Result<Seen>) -> anyhow::Result<Seen>,
) -> anyhow::Result<Vec<Seen>> {
    let mut command = lab.workload.command(&setting.program)?;
    command.args(["demo", "--part", "workload"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("a workload cannot be started")?;
    let talk = (|| {
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a workload has no pipes");
        };
        if let Ok(folder) = &setting.cgroup {
            let name = if group.via == Via::Cgroup { group.tag.as_str() } else { PLAIN };
            // It has made no socket yet: it waits for its first probe.
            let path = folder.join(name).join("cgroup.procs");
            fs::write(&path, child.id().to_string())
                .with_context(|| format!("moving a workload to {}", path.display()))?;
        }
        ask(&group.probes, stdin, stdout, each)
    })();
    if talk.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    let seen = talk?;
    ensure!(status.success(), "a workload ended with {status}");
    Ok(seen)
}

fn ask<'a>(
    probes: &'a [Probe],
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    mut each: impl FnMut(&'a Probe, &mut dyn FnMut() -> anyhow::Result<Seen>) -> anyhow::Result<Seen>,
) -> anyhow::Result<Vec<Seen>> {
    let mut answers = BufReader::new(stdout).lines();
    let mut seen = Vec::new();
    for probe in probes {
        let answer = each(probe, &mut || {
            let mut line = serde_json::to_vec(probe)?;
            line.push(b'\n');
            stdin.write_all(&line).context("a workload went away")?;
            Ok(serde_json::from_str(&answers.next().context("a workload went away")??)?)
        })?;
        seen.push(answer);
    }
    Ok(seen)
}

/// `v4` or `v6`, for people.
pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "v6" } else { "v4" }
}
