//! The rows of the report: which program on which traffic, measured in turns.

use std::{net::IpAddr, time::Instant};

use sov_tests::{
    lab::{SOURCE4, SOURCE6},
    packet::{SYN, TCP, UDP, ip4, ip6, tcp, udp},
};

use crate::{
    rig::{Kind, NEXT, Rig},
    tables::{PORT, SET, Table},
};

/// How long to measure.
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) packets: u32,
}

impl Effort {
    pub(crate) const SMOKE: Self = Self { rounds: 3, packets: 2_048 };
    pub(crate) const FULL: Self = Self { rounds: 41, packets: 32_768 };
}

/// Packets of one round of new flows: fewer than the flow table and the ring buffer hold.
const NEW_FLOWS: u32 = 16_384;
const KNOWN_FLOWS: u32 = 4_096;

const TC_ACT_SHOT: u32 = 2;

/// A line of the report: nanoseconds per packet over the empty program on the same packets.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) median: f64,
    /// First and third quartile of the rounds' differences.
    pub(crate) quartiles: (f64, f64),
    pub(crate) minimum: f64,
}

/// All rows of one table and family.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) table: String,
    pub(crate) family: u8,
    pub(crate) intervals: usize,
    /// Entries of the trie.
    pub(crate) prefixes: usize,
    pub(crate) image_bytes: usize,
    /// The empty program itself with the kernel's own loop, which the rows do not contain.
    pub(crate) empty_ns: f64,
    pub(crate) rows: Vec<Row>,
}

impl Figures {
    pub(crate) fn median(&self, name: &str) -> f64 {
        self.rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.median)
    }
}

/// Sets of destinations in the rig.
const MIXED: u32 = 0;
const ALLOWED: u32 = 1;
const BLOCKED: u32 = 2;

/// What one row runs.
struct Case {
    name: &'static str,
    kind: Kind,
    set: u32,
    targets: u32,
    tcp: bool,
    tagged: bool,
    /// Every packet must get this answer; `None` = the class.
    answer: Option<u32>,
    new_flows: bool,
}

pub(crate) const LOOKUP: &str = "lookup: image";
pub(crate) const LOOKUP_TRIE: &str = "lookup: LPM trie";
pub(crate) const LOOKUP_ALLOWED: &str = "lookup of allowed: image";
pub(crate) const ALLOWED_IMAGE: &str = "allowed UDP: image";
pub(crate) const ALLOWED_TRIE: &str = "allowed UDP: LPM trie";

fn cases() -> Vec<Case> {
    let all = SET as u32;
    let case = |name, kind, set, answer| Case {
        name,
        kind,
        set,
        targets: all,
        tcp: false,
        tagged: true,
        answer,
        new_flows: false,
    };
    vec![
        case(LOOKUP, Kind::Lookup, MIXED, None),
        case(LOOKUP_TRIE, Kind::LookupTrie, MIXED, None),
        case(LOOKUP_ALLOWED, Kind::Lookup, ALLOWED, None),
        case(ALLOWED_IMAGE, Kind::Egress, ALLOWED, Some(NEXT)),
        case(ALLOWED_TRIE, Kind::EgressTrie, ALLOWED, Some(NEXT)),
        Case { tcp: true, ..case("allowed TCP: image", Kind::Egress, ALLOWED, Some(NEXT)) },
        Case { tagged: false, ..case("untagged UDP", Kind::Egress, ALLOWED, Some(NEXT)) },
        Case {
            targets: KNOWN_FLOWS,
            ..case("blocked UDP, known flow", Kind::Egress, BLOCKED, Some(TC_ACT_SHOT))
        },
        Case {
            targets: NEW_FLOWS,
            new_flows: true,
            ..case("blocked UDP, new flow", Kind::Egress, BLOCKED, Some(TC_ACT_SHOT))
        },
    ]
}

/// Runs all cases in turns, each beside the empty program on the same packets.
pub(crate) fn measure(rig: &mut Rig, table: &Table, family: u8, effort: &Effort) -> Figures {
    let prefixes = rig.use_table(table, family);
    rig.set_targets(MIXED, &table.mixed(family));
    rig.set_targets(ALLOWED, &table.judged(family, true));
    rig.set_targets(BLOCKED, &table.judged(family, false));
    let frames = [frame(family, false), frame(family, true)];
    let cases = cases();
    let mut samples: Vec<Vec<f64>> = vec![vec![]; cases.len()];
    let mut empties = vec![];
    // The first round warms caches and is not kept.
    for round in 0..=effort.rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let frame = &frames[usize::from(case.tcp)];
            let mark = if case.tagged { table.mark } else { 0 };
            let packets = if case.new_flows { NEW_FLOWS } else { effort.packets };
            let start = round.wrapping_mul(packets);
            if case.new_flows {
                rig.drain();
            } else if case.set == BLOCKED {
                // Makes the flows known.
                rig.aim(case.set, case.targets, 0);
                rig.run(case.kind, frame, mark, case.targets);
            }
            rig.aim(case.set, case.targets, start);
            let (_, empty) = rig.run(Kind::Empty, frame, mark, packets);
            rig.aim(case.set, case.targets, start);
            let (code, full) = rig.run(case.kind, frame, mark, packets);
            if let Some(answer) = case.answer {
                assert_eq!(code, answer, "{}: {}", table.name, case.name);
            }
            if case.new_flows {
                let (flows, events) = rig.drain();
                let all = (packets as usize, packets as usize);
                assert_eq!((flows, events), all, "{}: every packet is a new flow", table.name);
            }
            if round > 0 {
                samples.push(full - empty);
                empties.push(empty);
            }
        }
    }
    rig.drain();
    let rows = cases.iter().zip(samples).map(|(case, samples)| row(case.name, samples)).collect();
    Figures {
        table: table.name.clone(),
        family,
        intervals: table.intervals(family).len(),
        prefixes,
        image_bytes: table.image().words().len() * 4,
        empty_ns: row("empty", empties).median,
        rows,
    }
}

/// Compile, write and swap: milliseconds, medians.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) table: String,
    pub(crate) image_bytes: usize,
    pub(crate) compile_ms: f64,
    pub(crate) publish_ms: Row,
}

pub(crate) fn publish_times(rig: &mut Rig, tables: &[Table]) -> Vec<Publish> {
    let mut samples: Vec<Vec<f64>> = vec![vec![]; tables.len()];
    for _ in 0..15 {
        for (table, samples) in tables.iter().zip(&mut samples) {
            let start = Instant::now();
            rig.publish(table);
            samples.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let one = |(table, samples): (&Table, Vec<f64>)| Publish {
        table: table.name.clone(),
        image_bytes: table.image().words().len() * 4,
        compile_ms: table.compile_ms,
        publish_ms: row("publish", samples),
    };
    tables.iter().zip(samples).map(one).collect()
}

/// The two lookups in the kernel against the classifier in memory, and the two programs against each
/// other's verdict: a figure of a wrong answer is worth nothing.
pub(crate) fn check_answers(rig: &mut Rig, table: &Table) {
    for family in [4, 6] {
        rig.use_table(table, family);
        let targets = table.mixed(family);
        rig.set_targets(MIXED, &targets);
        let frame = frame(family, false);
        for (i, target) in targets.iter().enumerate().take(3_000) {
            let expected = table.decide(family, target.number());
            let mut ask = |kind| {
                rig.aim(MIXED, SET as u32, i as u32);
                rig.run(kind, &frame, table.mark, 1).0
            };
            let classes = (ask(Kind::Lookup), ask(Kind::LookupTrie));
            assert_eq!(classes.0, classes.1, "class of {:x} by image and trie", target.number());
            // Addresses that carry an IPv4 address are judged by that one.
            if classes.0 < u32::from(sov_common::image::embedded::FIRST) {
                assert_eq!(classes.0, u32::from(expected.class), "class of {:x}", target.number());
            }
            let verdict = if expected.allow { NEXT } else { TC_ACT_SHOT };
            let answers = (ask(Kind::Egress), ask(Kind::EgressTrie));
            assert_eq!(answers, (verdict, verdict), "verdict on {:x}", target.number());
        }
        rig.drain();
    }
}

fn frame(family: u8, over_tcp: bool) -> Vec<u8> {
    let payload = [0; 64];
    let segment = |from: IpAddr, to: IpAddr| match over_tcp {
        true => (TCP, tcp(from, to, 40_000, PORT, SYN, &payload)),
        false => (UDP, udp(from, to, 40_000, PORT, &payload)),
    };
    // The programs write the destination.
    if family == 4 {
        let (protocol, segment) = segment(SOURCE4.into(), SOURCE4.into());
        ip4(SOURCE4, SOURCE4, protocol).frame(&segment)
    } else {
        let (protocol, segment) = segment(SOURCE6.into(), SOURCE6.into());
        ip6(SOURCE6, SOURCE6, protocol).frame(&segment)
    }
}

fn row(name: &'static str, mut samples: Vec<f64>) -> Row {
    samples.sort_by(f64::total_cmp);
    let at = |part: usize| samples[(samples.len() - 1) * part / 4];
    Row { name, median: at(2), quartiles: (at(1), at(3)), minimum: at(0) }
}
