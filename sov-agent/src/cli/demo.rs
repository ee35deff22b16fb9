//! `demo`: shows the main job end to end in private network namespaces. Prints; [`crate::demo`] works.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use sov_common::verdict::Verdict;

use super::{
    FINDING, Format, Global, OK,
    lookup::Facts,
    output::{Cell, Output, Paint, Table, use_color},
};
use crate::{
    data::dataset::Dataset,
    demo::{
        guard::{self, End},
        plan::{self, PLACES, Tag},
        stage::{self, Event, Outcome, Report, Setting, Skipped},
        workload,
    },
    flowlog::record::Ledger,
};

/// Flow records that are shown.
const RECORDS: &str = "6";

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent demo
  sov-agent demo --json | jq .table

Needs root. Makes network namespaces with real addresses of the embedded data and no route out of the
machine, starts an agent in one of them, and sends TCP, UDP and ICMP with and without a tag. What arrives
is counted on the far side. Nothing stays behind, whatever ends it.

Exit status: 0 every expectation held, 1 some did not, 2 it could not be run.")]
pub struct Args {
    /// One JSON document instead of text; the same as --format json
    #[arg(long)]
    json: bool,
    /// Which role this process has
    #[arg(long, hide = true, value_enum)]
    part: Option<Part>,
    /// The stage's cgroup folder
    #[arg(long, hide = true)]
    cgroup: Option<PathBuf>,
    /// Why the stage has none
    #[arg(long, hide = true)]
    no_cgroup: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Part {
    Stage,
    Workload,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let mut global = global.clone();
    if args.json {
        global.format = Format::Json;
    }
    match args.part {
        None => watch(&global),
        Some(Part::Stage) => perform(args, &global),
        Some(Part::Workload) => {
            workload::run()?;
            Ok(ExitCode::from(OK))
        }
    }
}

fn watch(global: &Global) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demonstration makes network namespaces and loads eBPF programs: run it as root");
    }
    let program = env::current_exe().context("this program's own path is unknown")?;
    let end = guard::watch(|cgroup| {
        let mut command = Command::new(program);
        command.args(["demo", "--part", "stage"]);
        command.arg(if use_color(global.color) { "--color=always" } else { "--color=never" });
        if global.format == Format::Json {
            command.arg("--json");
        }
        if global.verbose > 0 {
            command.arg(format!("-{}", "v".repeat(usize::from(global.verbose))));
        }
        match cgroup {
            Ok(folder) => command.arg("--cgroup").arg(folder),
            Err(why) => command.arg("--no-cgroup").arg(why),
        };
        command
    })?;
    match end {
        End::Interrupted(signal) => {
            super::logging::plain("interrupted; nothing is left behind");
            guard::die_by(signal)
        }
        End::Exited(status) => match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(code) => Ok(ExitCode::from(code)),
            None => bail!(guard::death(status)),
        },
    }
}

fn perform(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let unknown = || args.no_cgroup.clone().unwrap_or_else(|| "no folder was given".into());
    let setting = Setting {
        cgroup: args.cgroup.clone().ok_or_else(unknown),
        program: env::current_exe().context("this program's own path is unknown")?,
    };
    let mut show = Show { out: Output::new(global), data: Dataset::embedded()? };
    show.title()?;
    let report = stage::run(&setting, |event| show.event(&event, &setting))?;
    let good = report.problems.is_empty()
        && report.outcomes.iter().all(|outcome| outcome.differences.is_empty());
    if show.out.is_json() {
        let document = document(&show.data, &report, good);
        show.out.json(&document)?;
    } else {
        show.close(&report, good)?;
    }
    show.out.finish()?;
    Ok(ExitCode::from(if good { OK } else { FINDING }))
}

struct Show {
    out: Output,
    data: Dataset,
}

impl Show {
    fn title(&mut self) -> io::Result<()> {
        if self.out.is_json() {
            return Ok(());
        }
        let title =
            self.out.paint(Paint::Bold, "Tagged traffic leaves only for where the policy allows.");
        let title = title.into_owned();
        writeln!(
            self.out,
            "{title}\nReal packets between private network namespaces; no route leads out of this machine.\n"
        )?;
        let mut table =
            Table::new(&["DESTINATION", "LOCATION/CONTROL", "OPERATOR", "IPv4", "IPv6"]);
        for place in &PLACES {
            let facts = Facts::of(&self.data, place.v4.into());
            table.row([
                place.what.into(),
                format!("{} / {}", facts.location, facts.control).into(),
                facts.operator.as_deref().unwrap_or("-").into(),
                place.v4.to_string().into(),
                place.v6.to_string().into(),
            ]);
        }
        self.out.table(&table)?;
        self.out.flush()
    }

    fn event(&mut self, event: &Event<'_>, setting: &Setting) -> anyhow::Result<()> {
        if self.out.is_json() {
            return Ok(());
        }
        match event {
            Event::Ready { agent, took } => {
                let sockets = agent.cgroup.as_ref().map_or(0, |cgroup| cgroup.links.len());
                let names: Vec<_> = agent.interfaces.iter().map(|i| i.name.as_str()).collect();
                writeln!(
                    self.out,
                    "\nThe agent guards {} and {sockets} socket hooks; ready after {:.1} s.",
                    names.join(", "),
                    took.as_secs_f64()
                )?;
            }
            Event::Skipped { what, why } => {
                let word = self.out.paint(Paint::Yellow, "skipped").into_owned();
                writeln!(self.out, "\n{word}: {what}: {}", super::output::clean(why))?;
            }
            Event::Group(group) => {
                let name = match group.via {
                    plan::Via::Nothing => group.tag.as_str().to_owned(),
                    via => format!("{}, tagged by {}", group.tag.as_str(), via.as_str()),
                };
                let name = self.out.paint(Paint::Bold, &name).into_owned();
                writeln!(self.out, "\n{name} ({})", group.tag.meaning())?;
            }
            Event::Probe(outcome) => self.probe(outcome)?,
            Event::Journal(folder) => self.records(folder, setting)?,
        }
        Ok(self.out.flush()?)
    }

    fn probe(&mut self, outcome: &Outcome) -> io::Result<()> {
        let Outcome { probe, observed, differences } = outcome;
        let facts = Facts::of(&self.data, probe.destination);
        let (verdict, paint) = match observed.record {
            None => ("passed", Paint::Dim),
            Some((Verdict::Allow, _)) => ("allow", Paint::Green),
            Some((Verdict::Block, _)) => ("BLOCK", Paint::Red),
            Some((Verdict::WouldBlock, _)) => ("would_block", Paint::Yellow),
        };
        let verdict = self.out.paint(paint, &format!("{verdict:11}")).into_owned();
        let reason = observed.record.map_or("-", |(_, reason)| reason.as_str());
        let noticed = match &observed.seen.error {
            Some(error) => format!("{error} after {}", time(observed.seen.nanoseconds)),
            None => format!("{} arrived", observed.arrived),
        };
        writeln!(
            self.out,
            "  {:9} {:8} {:20} {:5} {:7} {verdict} {reason:16} {noticed}",
            probe.tag.as_str(),
            probe.kind.as_str(),
            probe.destination,
            format!("{}/{}", facts.location, facts.control),
            facts.operator.as_deref().unwrap_or("-"),
        )?;
        for difference in differences {
            let word = self.out.paint(Paint::Red, "NOT AS EXPECTED").into_owned();
            writeln!(self.out, "    {word}: {difference}")?;
        }
        Ok(())
    }

    /// What `sov-agent flows` prints.
    fn records(&mut self, folder: &Path, setting: &Setting) -> anyhow::Result<()> {
        let title = self.out.paint(Paint::Bold, "Flow log").into_owned();
        writeln!(
            self.out,
            "\n{title} (sov-agent flows --tag sovereign --verdict block --limit {RECORDS})"
        )?;
        self.out.flush()?;
        let color = !self.out.paint(Paint::Bold, "").is_empty();
        let output = Command::new(&setting.program)
            .args(["flows", "--tag", "sovereign", "--verdict", "block", "--limit", RECORDS])
            .arg(if color { "--color=always" } else { "--color=never" })
            .arg("--dir")
            .arg(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("`sov-agent flows` ended with {}", output.status);
        }
        Ok(self.out.write_all(&output.stdout)?)
    }

    fn close(&mut self, report: &Report, good: bool) -> io::Result<()> {
        let title = self.out.paint(Paint::Bold, "Expected and observed").into_owned();
        writeln!(self.out, "\n{title}")?;
        let mut table = Table::new(&[
            "TAG",
            "DESTINATION",
            "EXPECTED",
            "OBSERVED",
            "PROBES",
            "ARRIVED",
            "NOTICED",
        ])
        .right(&[4, 5]);
        for row in rows(report) {
            let as_wished = row.failed == 0;
            let mark = if as_wished { "as expected" } else { "DIFFERENT" };
            let paint = if as_wished { Paint::Green } else { Paint::Red };
            let noticed = match row.blocks_noticed_ns {
                Some([first, last]) => format!("{} to {}", time(first), time(last)),
                None => "-".into(),
            };
            table.row([
                row.tag.as_str().into(),
                row.destination.into(),
                row.expected.into(),
                Cell::painted(paint, mark),
                row.probes.to_string().into(),
                row.arrived.to_string().into(),
                noticed.into(),
            ]);
        }
        self.out.table(&table)?;
        let ledger = &report.ledger;
        let sign = if ledger.balances() { "=" } else { "DOES NOT EQUAL" };
        writeln!(
            self.out,
            "\nARRIVED counts packets on the far side; NOTICED is how long a blocked call took to fail.\n\
             Ledger: {} blocked {sign} {} recorded + {} aggregated + {} suppressed + {} lost.\n\
             On record at most {:.0} ms after the last packet of a group.",
            ledger.blocked,
            ledger.recorded,
            ledger.aggregated,
            ledger.suppressed,
            ledger.lost,
            report.slowest_record.as_secs_f64() * 1e3,
        )?;
        let title = self.out.paint(Paint::Bold, "Cost of a verdict, measured now").into_owned();
        writeln!(
            self.out,
            "\n{title} (BPF_PROG_TEST_RUN of the tc egress program, allowed packets)"
        )?;
        let mut table = Table::new(&["", "TAGGED", "UNTAGGED", "DIFFERENCE", ""]).right(&[1, 2, 3]);
        let ns = |value: f64| -> Cell { format!("{value:.0} ns").into() };
        for (family, cost) in ["IPv4", "IPv6"].into_iter().zip(&report.cost) {
            let random = format!("each packet to another of {} destinations", cost.destinations);
            let same = "200 in a row to the same destination".to_owned();
            for (tagged, untagged, difference, what) in [
                (cost.tagged_ns, cost.untagged_ns, cost.verdict_ns(), random),
                (cost.repeated_ns, cost.repeated_untagged_ns, cost.repeated_verdict_ns(), same),
            ] {
                table.row([family.into(), ns(tagged), ns(untagged), ns(difference), what.into()]);
            }
        }
        self.out.table(&table)?;
        for problem in &report.problems {
            let word = self.out.paint(Paint::Red, "NOT AS EXPECTED").into_owned();
            writeln!(self.out, "\n{word}: {}", super::output::clean(problem))?;
        }
        let failures = || report.outcomes.iter().filter(|o| !o.differences.is_empty());
        let failed = failures().count();
        if failed > 0 {
            let word = self.out.paint(Paint::Red, "NOT AS EXPECTED").into_owned();
            writeln!(self.out, "\n{word}:")?;
        }
        for outcome in failures() {
            self.probe(outcome)?;
        }
        let verdict = match good {
            true => self.out.paint(Paint::Green, "Every expectation held"),
            false => self.out.paint(Paint::Red, "Not every expectation held"),
        }
        .into_owned();
        let total = report.outcomes.len();
        writeln!(
            self.out,
            "\n{verdict}: {} of {total} probes as expected, in {:.1} s.",
            total - failed,
            report.took.as_secs_f64()
        )
    }
}

fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{:.1} us", nanoseconds as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{} ms", nanoseconds / 1_000_000),
    }
}

/// The closing table: all probes of one tag to one place.
#[derive(Serialize)]
struct Row {
    tag: Tag,
    destination: &'static str,
    /// Verdict and reason; `passes` for what is not judged.
    expected: String,
    probes: usize,
    /// Probes that were not as expected.
    failed: usize,
    /// Packets on the far side.
    arrived: u64,
    /// Shortest and longest time until a blocked call failed, ns.
    blocks_noticed_ns: Option<[u64; 2]>,
}

fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for tag in [Tag::Untagged, Tag::General, Tag::Sovereign, Tag::Audited] {
        for (index, place) in PLACES.iter().enumerate() {
            let those: Vec<_> = (report.outcomes.iter())
                .filter(|o| (o.probe.tag, o.probe.place) == (tag, index))
                .collect();
            let Some(first) = those.first() else { continue };
            let expected = match first.probe.expected() {
                None => "passes".into(),
                expected => plan::words(expected),
            };
            let blocked = those.iter().filter(|o| !o.probe.should_arrive());
            let times = || blocked.clone().map(|o| o.observed.seen.nanoseconds);
            rows.push(Row {
                tag,
                destination: place.what,
                expected,
                probes: those.len(),
                failed: those.iter().filter(|o| !o.differences.is_empty()).count(),
                arrived: those.iter().map(|o| o.observed.arrived).sum(),
                blocks_noticed_ns: times().min().zip(times().max()).map(|(a, b)| [a, b]),
            });
        }
    }
    rows
}

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    probes: Vec<ProbeLine<'a>>,
    table: Vec<Row>,
    ledger: Ledger,
    ledger_balances: bool,
    cost: Costs,
    skipped: &'a [Skipped],
    problems: &'a [String],
    slowest_record_ms: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Costs {
    measured: &'static str,
    ipv4: CostLine,
    ipv6: CostLine,
}

#[derive(Serialize)]
struct CostLine {
    #[serde(flatten)]
    cost: crate::demo::bench::Cost,
    verdict_ns: f64,
    repeated_verdict_ns: f64,
}

impl From<crate::demo::bench::Cost> for CostLine {
    fn from(cost: crate::demo::bench::Cost) -> Self {
        Self {
            cost,
            verdict_ns: cost.verdict_ns(),
            repeated_verdict_ns: cost.repeated_verdict_ns(),
        }
    }
}

#[derive(Serialize)]
struct ProbeLine<'a> {
    tag: Tag,
    tagged_by: plan::Via,
    kind: plan::Kind,
    family: &'static str,
    source_port_or_id: u16,
    destination: std::net::IpAddr,
    port: u16,
    location: String,
    control: String,
    operator: Option<Box<str>>,
    expected_verdict: Option<&'static str>,
    expected_reason: Option<&'static str>,
    verdict: Option<&'static str>,
    reason: Option<&'static str>,
    arrived_packets: u64,
    answered: bool,
    error: Option<&'a str>,
    call_ns: u64,
    differences: &'a [String],
}

fn document<'a>(data: &Dataset, report: &'a Report, good: bool) -> Document<'a> {
    let probes = report.outcomes.iter().map(|Outcome { probe, observed, differences }| {
        let facts = Facts::of(data, probe.destination);
        let (expected, record) = (probe.expected(), observed.record);
        ProbeLine {
            tag: probe.tag,
            tagged_by: probe.via,
            kind: probe.kind,
            family: stage::family(probe.destination),
            source_port_or_id: probe.number,
            destination: probe.destination,
            port: probe.port,
            location: facts.location,
            control: facts.control,
            operator: facts.operator,
            expected_verdict: expected.map(|(verdict, _)| verdict.as_str()),
            expected_reason: expected.map(|(_, reason)| reason.as_str()),
            verdict: record.map(|(verdict, _)| verdict.as_str()),
            reason: record.map(|(_, reason)| reason.as_str()),
            arrived_packets: observed.arrived,
            answered: observed.seen.answered,
            error: observed.seen.error.as_deref(),
            call_ns: observed.seen.nanoseconds,
            differences,
        }
    });
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Document {
        ok: good,
        probes: probes.collect(),
        table: rows(report),
        ledger: report.ledger,
        ledger_balances: report.ledger.balances(),
        cost: Costs {
            measured: "BPF_PROG_TEST_RUN of the tc egress program on allowed packets, mean ns; \
                       verdict = tagged minus untagged",
            ipv4: report.cost[0].into(),
            ipv6: report.cost[1].into(),
        },
        skipped: &report.skipped,
        problems: &report.problems,
        slowest_record_ms: ms(report.slowest_record),
        seconds: report.took.as_secs_f64(),
    }
}
