//! The benchmark: what a packet, a policy change and the agent cost, beside what people use today.
//! `cargo xtask bench` makes it and draws the report. Ratios of one run, measured in turns.
//!
//! In the ordinary tiers this is a smoke run of every kind of row: answers and counts are compared,
//! not times.

mod around;
mod environment;
mod memory;
mod model;
mod peers;
mod programs;
mod progress;
mod rig;
mod sample;
mod site;
mod stats;
mod tables;
mod targets;
mod tcp;
mod upkeep;
mod wire;
mod xdp;

use std::env;

use sov_tests::{cpu, require_root};

use around::Around;
use model::{Report, Section, VERSION};
use progress::Progress;
use rig::Rig;
use site::{Filter, Site};
use tables::Table;

/// How long to measure.
pub(crate) struct Effort {
    /// Rounds and packets of a test run.
    pub(crate) rounds: u32,
    pub(crate) packets: u32,
    /// Answers that are compared before a table is measured.
    pub(crate) answers: usize,
    /// Policy changes.
    pub(crate) changes: u32,
    /// Turns of each filter end to end, packets of a turn.
    pub(crate) turns: u32,
    pub(crate) sent: u32,
    /// Destinations of a sender.
    pub(crate) list: usize,
    /// Round trips and milliseconds of a TCP turn.
    pub(crate) trips: u32,
    pub(crate) stream_ms: u64,
}

impl Effort {
    const SMOKE: Self = Self {
        rounds: 3,
        packets: 2_048,
        answers: 1_000,
        changes: 1,
        turns: 1,
        sent: 1_024,
        list: 1_024,
        trips: 50,
        stream_ms: 10,
    };
    const QUICK: Self = Self {
        rounds: 7,
        packets: 8_192,
        answers: 1_000,
        changes: 3,
        turns: 5,
        sent: 8_192,
        list: 65_536,
        trips: 200,
        stream_ms: 50,
    };
    const FULL: Self = Self {
        rounds: 31,
        packets: 32_768,
        answers: 3_000,
        changes: 7,
        turns: 11,
        sent: 16_384,
        list: 65_536,
        trips: 1_000,
        stream_ms: 120,
    };
}

/// Every kind of row is measured, agrees with what the classifier says, and loses no packet.
#[test]
fn smoke() {
    require_root!();
    let made = vec![("1k", Table::sampled("1k", 1_000, 1_000))];
    let report = run(made, &Effort::SMOKE, |_| true);
    let allowed = report.row("program.1k.4", programs::ALLOWED_ROW).and_then(|row| row.value);
    assert!(allowed.is_some_and(|ns| ns > 1.0), "{report:?}");
    for section in &report.sections {
        for row in section.groups.iter().flat_map(|group| &group.rows) {
            assert!(row.value.is_some() || !row.note.is_empty(), "{}: {row:?}", section.id);
        }
    }
}

/// The report, as JSON in the file that `SOV_BENCH` names. `SOV_BENCH_QUICK=1`: few rounds.
/// `SOV_BENCH_ONLY`: sections, separated by commas.
#[test]
#[ignore = "minutes of measuring; run by `cargo xtask bench`"]
fn full() {
    require_root!();
    let quick = env::var_os("SOV_BENCH_QUICK").is_some();
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let only = env::var("SOV_BENCH_ONLY").unwrap_or_default();
    let wanted = |id: &str| only.is_empty() || only.split(',').any(|part| part == id);
    let mut tables = vec![
        ("embedded", Table::embedded()),
        ("1k", Table::sampled("1k", 1_000, 1_000)),
        ("10k", Table::sampled("10k", 10_000, 10_000)),
        ("100k", Table::sampled("100k", 100_000, 100_000)),
    ];
    if !quick {
        // 1.65 million prefixes in all.
        tables.push(("1m", Table::sampled("1m", 1_000_000, 650_000)));
    }
    let report = Report { quick, ..run(tables, &effort, wanted) };
    let path = env::var_os("SOV_BENCH").unwrap_or_else(|| "report.json".into());
    let json = serde_json::to_vec_pretty(&report).expect("numbers and names");
    std::fs::write(&path, json).expect("the report's file is writable");
}

fn run(
    made: Vec<(&'static str, Result<Table, String>)>,
    effort: &Effort,
    wanted: impl Fn(&str) -> bool,
) -> Report {
    let progress = Progress::new();
    let environment = environment::describe();
    // The last CPU: the first serves most interrupts.
    cpu::pin(cpu::count() - 1);
    let (mut tables, mut refused) = (vec![], vec![]);
    for (id, table) in made {
        match table {
            Ok(table) => tables.push(table),
            Err(why) => refused.push((id.to_owned(), why)),
        }
    }
    let mut sections: Vec<Section> = vec![];
    if wanted("program") || wanted("upkeep") {
        let mut rig = Rig::load();
        if wanted("program") {
            sections.push(programs::section(&mut rig, &tables, &refused, effort, &progress));
        }
        if wanted("upkeep") {
            sections.push(upkeep::section(&mut rig, &tables, &refused, effort, &progress));
        }
    }
    if wanted("memory") {
        sections.push(memory::section(&progress));
    }
    if wanted("xdp") {
        sections.push(xdp::section(&mut Around::load(), &tables, effort, &progress));
    }
    if wanted("wire") || wanted("tcp") || wanted("cores") {
        progress.step("a network for every filter");
        let mut around = Around::load();
        let mut sites: Vec<Site> =
            Filter::ALL.into_iter().map(|filter| Site::new(filter, &mut around)).collect();
        if wanted("wire") {
            let section = wire::section(&mut sites, &around, &tables, effort, &progress);
            sections.push(section);
        }
        // What follows is about the embedded data, or the only table of a smoke run.
        if let Some(table) = tables.first() {
            if wanted("tcp") {
                sections.push(tcp::section(&mut sites, table, effort, &progress));
            }
            if wanted("cores") {
                sections.push(wire::cores(&mut sites, &around, table, effort, &progress));
            }
        }
    }
    let mut report = Report {
        version: VERSION,
        quick: true,
        started: tables::unix_now() - progress.seconds() as u64,
        seconds: progress.seconds(),
        environment,
        sections,
        targets: vec![],
    };
    report.targets = targets::judge(&report);
    report
}

impl Report {
    /// A row by the ids of its group and itself.
    pub(crate) fn row(&self, group: &str, row: &str) -> Option<&model::Row> {
        let groups = self.sections.iter().flat_map(|section| &section.groups);
        groups.filter(|one| one.id == group).flat_map(|one| &one.rows).find(|one| one.id == row)
    }
}
