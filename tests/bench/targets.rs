//! What was promised and what was measured. The promises are the project's; none is tuned here.

use crate::{
    memory::{MAPS, PEAK, STEADY},
    model::{Report, Row, Target},
    programs::{ALLOWED_ROW, KNOWN, LOOKUP, LOOKUP_TRIE, NEW},
    site::Filter,
    upkeep::{LIVE, SIZE},
    xdp,
};

pub(crate) fn judge(report: &Report) -> Vec<Target> {
    let of = |group: &str, row: &str| report.row(group, row).and_then(|row| row.value);
    let mut out = vec![];
    for (family, limit) in [(4, 45.0), (6, 60.0)] {
        let group = format!("program.embedded.{family}");
        let cost = |what: &str, row, limit| {
            at_most(&format!("{what}, embedded data, IPv{family}"), limit, of(&group, row), "ns")
        };
        out.push(cost("allowed packet over an empty program", ALLOWED_ROW, limit));
        out.push(cost("blocked packet of a known flow", KNOWN, 130.0));
        out.push(cost("first packet of a blocked flow, recorded", NEW, 700.0));
    }
    for family in [4, 6] {
        let small = format!("program.1k.{family}");
        let large = format!("program.1m.{family}");
        let growth = ratio(of(&large, ALLOWED_ROW), of(&small, ALLOWED_ROW));
        let what = format!("allowed packet, IPv{family}: largest table over 1,000 prefixes");
        out.push(at_most(&what, 2.5, growth, "times"));
        let trie = ratio(of(&large, LOOKUP_TRIE), of(&large, LOOKUP));
        let what = format!("lookup, IPv{family}, largest table: LPM trie over ours");
        out.push(at_least(&what, 25.0, trie, "times"));
    }
    for (table, limit) in [("embedded", 50.0), ("100k", 150.0), ("1m", 500.0)] {
        let live = of(&format!("change.{table}"), LIVE);
        out.push(at_most(&format!("policy built and live, {table}"), limit, live, "ms"));
    }
    let swapping = report.row("swap", "swapping").and_then(by_base);
    let slower = swapping.map(|ratio| (ratio - 1.0) * 100.0);
    out.push(at_most("reader slowdown while swapping", 2.0, slower, "%"));
    for (table, limit) in [("embedded", 1.5), ("100k", 6.0)] {
        let size = of(&format!("change.{table}"), SIZE);
        out.push(at_most(&format!("image, {table}"), limit, size, "MiB"));
    }
    out.extend(end_to_end(report));
    for family in [4, 6] {
        let group = format!("xdp.embedded.{family}");
        let ours = report.row(&group, xdp::OURS).and_then(by_base);
        let what = format!("XDP classify and drop, IPv{family}, against a bare XDP drop");
        out.push(at_least(&what, 0.75, ours, "times"));
        let nftables = report.row(&group, xdp::NFTABLES).and_then(by_base);
        let what = format!("XDP classify and drop, IPv{family}, against nftables netdev ingress");
        out.push(at_least(&what, 5.0, ratio(ours, nftables), "times"));
    }
    let memory = |group: &str, row: &str| of(&format!("memory.{group}"), row);
    out.push(at_most("kernel memory, default configuration", 32.0, memory("kernel", MAPS), "MiB"));
    out.push(at_most("agent resident, steady", 32.0, memory("agent", STEADY), "MiB"));
    out.push(at_most("agent resident, peak", 64.0, memory("agent", PEAK), "MiB"));
    out
}

/// What a sender notices.
fn end_to_end(report: &Report) -> Vec<Target> {
    let mut out = vec![];
    let by_peer = |group: &str, row: &str| report.row(group, row).and_then(by_base);
    for (table, limit) in [("embedded", 6.0), ("100k", 8.0)] {
        for family in [4, 6] {
            let added = by_peer(&format!("added.raw{family}-allow.{table}"), Filter::Ours.id());
            let what = format!(
                "CPU added to raw frames, {table}, IPv{family}: nftables netdev egress over ours"
            );
            out.push(at_least(&what, limit, ratio(Some(1.0), added), "times"));
        }
    }
    for table in ["embedded", "100k"] {
        for family in [4, 6] {
            let group = format!("added.udp{family}-allow.{table}");
            let of = |filter: Filter| report.row(&group, filter.id()).and_then(|row| row.value);
            let what =
                format!("CPU added to datagrams, {table}, IPv{family}: ipset over our packet hook");
            out.push(at_least(&what, 3.0, ratio(of(Filter::Ipset), of(Filter::Ours)), "times"));
        }
    }
    for (what, group, filter, limit) in [
        ("raw frames, all allowed", "raw{}-allow", Filter::Ours, 0.92),
        ("datagrams, all allowed", "udp{}-allow", Filter::Ours, 0.95),
        ("datagrams, all allowed, with socket hooks", "udp{}-allow", Filter::Whole, 0.95),
        ("raw frames, half blocked", "raw{}-mix", Filter::Ours, 1.0),
    ] {
        for family in [4, 6] {
            let group = group.replace("{}", &family.to_string());
            let rate = by_peer(&format!("rate.{group}.embedded"), filter.id());
            let what = format!("rate against no filter, IPv{family}, {what}");
            out.push(at_least(&what, limit, rate, "times"));
        }
    }
    for family in [4, 6] {
        let stream = by_peer(&format!("tcp.stream.{family}"), Filter::Ours.id());
        let what = format!("TCP throughput against no filter, IPv{family}");
        out.push(at_least(&what, 0.98, stream, "times"));
        let slow = by_peer(&format!("tcp.p99.{family}"), Filter::Ours.id());
        let what = format!("round trip, 99th percentile, against no filter, IPv{family}");
        out.push(at_most(&what, 1.04, slow, "times"));
    }
    out
}

fn by_base(row: &Row) -> Option<f64> {
    row.ratio.map(|[_, median, _]| median)
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}

fn at_most(metric: &str, limit: f64, measured: Option<f64>, unit: &str) -> Target {
    target(metric, "at most", limit, measured, unit, |value| value <= limit)
}

fn at_least(metric: &str, limit: f64, measured: Option<f64>, unit: &str) -> Target {
    target(metric, "at least", limit, measured, unit, |value| value >= limit)
}

fn target(
    metric: &str,
    bound: &str,
    limit: f64,
    measured: Option<f64>,
    unit: &str,
    reached: impl Fn(f64) -> bool,
) -> Target {
    Target {
        metric: metric.into(),
        reach: format!("{bound} {} {unit}", number(limit)),
        measured: measured.map_or_else(String::new, |value| format!("{} {unit}", number(value))),
        reached: measured.map(reached),
    }
}

/// Three significant digits or so.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
