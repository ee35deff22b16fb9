//! The demonstration as one JSON document.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    super::lookup::Facts,
    table::{Notice, Row, notices, rows},
};
use crate::{
    data::dataset::Dataset,
    demo::{
        bench::Cost,
        plan::{self, Tag},
        stage::{self, Outcome, Report, Skipped},
    },
    flowlog::record::Ledger,
};

#[derive(Serialize)]
pub(super) struct Document<'a> {
    ok: bool,
    probes: Vec<ProbeLine<'a>>,
    /// The whole flow log: OCSF events, as the agent wrote them.
    records: Vec<&'a RawValue>,
    table: Vec<Row>,
    blocked_calls: Vec<Notice<'a>>,
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
    cost: Cost,
    verdict_ns: f64,
    repeated_verdict_ns: f64,
}

impl From<Cost> for CostLine {
    fn from(cost: Cost) -> Self {
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

pub(super) fn document<'a>(data: &Dataset, report: &'a Report, good: bool) -> Document<'a> {
    let probes = report.outcomes.iter().map(|Outcome { probe, observed, differences }| {
        let facts = Facts::of(data, &[], probe.destination);
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
        records: report.records.iter().map(|record| &*record.line).collect(),
        table: rows(report),
        blocked_calls: notices(report),
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
