//! What was promised and what was measured. The promises are the project's; none is tuned here.

use crate::{
    model::{Report, Row, Target},
    programs::{ALLOWED_ROW, KNOWN, LOOKUP, LOOKUP_TRIE, NEW},
    upkeep::{LIVE, SIZE},
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
