//! The demonstration for people: what happens as it happens, then the flow log and the tables. No line
//! is wider than 100 columns.

use std::io::{self, Write as _};

use sov_common::verdict::{Reason, Verdict};

use super::{
    super::{
        lookup::Facts,
        output::{Cell, Output, Paint, Table},
    },
    table,
};
use crate::{
    data::dataset::Dataset,
    demo::{
        plan::{self, PLACES, Tag},
        records::OnRecord,
        stage::{Event, Outcome, Report},
    },
};

pub(super) struct Show {
    pub(super) out: Output,
    pub(super) data: Dataset,
}

impl Show {
    pub(super) fn title(&mut self) -> io::Result<()> {
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
            let facts = Facts::of(&self.data, &[], place.v4.into());
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

    pub(super) fn event(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
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
                writeln!(self.out, "\n{word}: {what}: {}", crate::text::visible(why))?;
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
        }
        Ok(self.out.flush()?)
    }

    /// What became of a probe: by the agent's record or counter, on the far side, for the application.
    fn probe(&mut self, outcome: &Outcome) -> io::Result<()> {
        let Outcome { probe, observed, differences } = outcome;
        let facts = Facts::of(&self.data, &[], probe.destination);
        let (verdict, paint) = match observed.record {
            // Nothing judges it; that it passed is what the far side says.
            None if observed.arrived > 0 => ("passed", Paint::Dim),
            None => ("-", Paint::Dim),
            Some((Verdict::Allow, _)) => ("allow", Paint::Green),
            Some((Verdict::Block, _)) => ("BLOCK", Paint::Red),
            Some((Verdict::WouldBlock, _)) => ("would_block", Paint::Yellow),
        };
        // As wide as the longest word of the group.
        let width = if probe.tag == Tag::Audited { 11 } else { 6 };
        let verdict = self.out.paint(paint, &format!("{verdict:width$}")).into_owned();
        let reason = observed.record.map_or("-", |(_, reason)| reason.as_str());
        let noticed = match &observed.seen.error {
            Some(error) => format!("; {error} {}", time(observed.seen.nanoseconds)),
            None if observed.seen.answered => "; answered".into(),
            None => String::new(),
        };
        writeln!(
            self.out,
            "  {:5} {:20} {:5} {:7} {verdict} {reason:16} {} arrived{noticed}",
            probe.kind.as_str(),
            probe.destination,
            format!("{}/{}", facts.location, facts.control),
            facts.operator.as_deref().unwrap_or("-"),
            observed.arrived,
        )?;
        for difference in differences {
            let word = self.out.paint(Paint::Red, "NOT AS EXPECTED").into_owned();
            writeln!(self.out, "    {word}: {difference}")?;
        }
        Ok(())
    }

    /// The case that plain geolocation lets through: one record for each hook, protocol and verdict.
    fn records(&mut self, records: &[OnRecord]) -> io::Result<()> {
        let title = self.out.paint(Paint::Bold, "Flow log").into_owned();
        writeln!(
            self.out,
            "\n{title}: foreign control in Japan, one record of each kind ({} records in all; with --json\n\
             all, as OCSF events)",
            records.len()
        )?;
        let mut kinds = Vec::new();
        for record in records.iter().map(|record| &record.flow) {
            let kind = (record.verdict, record.reason, record.hook, record.protocol);
            if record.reason != Reason::ForeignControl || kinds.contains(&kind) {
                continue;
            }
            kinds.push(kind);
            let [first, second] = super::super::flows::two_lines(record);
            let paint = if record.verdict == Verdict::Block { Paint::Red } else { Paint::Yellow };
            let verdict = format!("{:11}", record.verdict.as_str());
            let verdict = self.out.paint(paint, &verdict).into_owned();
            writeln!(
                self.out,
                "{verdict} {}\n            {}",
                crate::text::visible(&first),
                crate::text::visible(&second)
            )?;
        }
        Ok(())
    }

    pub(super) fn close(&mut self, report: &Report, good: bool) -> io::Result<()> {
        self.records(&report.records)?;
        let title = self.out.paint(Paint::Bold, "Expected and observed").into_owned();
        writeln!(self.out, "\n{title}")?;
        let mut table =
            Table::new(&["TAG", "TO", "EXPECTED", "OBSERVED", "PROBES", "ARRIVED"]).right(&[4, 5]);
        for row in table::rows(report) {
            let paint = if row.failed == 0 { Paint::Green } else { Paint::Red };
            table.row([
                row.tag.as_str().into(),
                row.short.into(),
                row.expected.into(),
                Cell::painted(paint, row.observed.join(", ")),
                row.probes.to_string().into(),
                row.arrived.to_string().into(),
            ]);
        }
        self.out.table(&table)?;
        let title =
            self.out.paint(Paint::Bold, "How long a blocked call took to fail").into_owned();
        writeln!(self.out, "\n{title}")?;
        let mut table =
            Table::new(&["PROBE", "ERROR", "CALLS", "SHORTEST", "LONGEST", ""]).right(&[2, 3, 4]);
        for row in table::notices(report) {
            table.row([
                row.kind.as_str().into(),
                row.error.unwrap_or("none").into(),
                row.calls.to_string().into(),
                time(row.shortest_ns).into(),
                time(row.longest_ns).into(),
                row.kind.meaning().into(),
            ]);
        }
        self.out.table(&table)?;
        let ledger = &report.ledger;
        let sign = if ledger.balances() { "=" } else { "DOES NOT EQUAL" };
        writeln!(
            self.out,
            "\nOBSERVED is the agent's record, or its counter for what passed; ARRIVED was counted by a packet\n\
             socket at the destination.\n\
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
            writeln!(self.out, "\n{word}: {}", crate::text::visible(problem))?;
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
        0..100_000 => format!("{:.1} us", nanoseconds as f64 / 1e3),
        100_000..1_000_000 => format!("{} us", nanoseconds / 1000),
        1_000_000..10_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{} ms", nanoseconds / 1_000_000),
    }
}
