//! What a packet costs: the real tc program over an empty one, and over the same program with the
//! kernel's LPM trie in place of the image lookup. Ratios of one run; `cargo xtask figures` makes it.
//!
//! In the ordinary tiers this is a smoke run: few packets, and the answers are compared, not the times.

#[path = "../datapath/generate.rs"]
#[expect(dead_code, reason = "shared with the datapath tier, which uses all of it")]
mod generate;
mod report;
mod rig;
mod rows;
mod tables;

use sov_tests::require_root;

use rig::Rig;
use rows::Effort;
use tables::Table;

/// The trie holds what the image holds, and every program gives the answer that its row claims.
#[test]
fn smoke() {
    require_root!();
    let mut rig = Rig::load();
    let table = Table::generated("3,000 + 3,000 prefixes", 3_000, 3_000);
    rows::check_answers(&mut rig, &table);
    for family in [4, 6] {
        let figures = rows::measure(&mut rig, &table, family, &Effort::SMOKE);
        // Few packets: only what is far above the noise can be claimed.
        assert!(figures.median(rows::ALLOWED_IMAGE) > 1.0, "{figures:?}");
    }
}

/// The figures of docs/PERFORMANCE.md: a table on stderr, JSON in the file that `SOV_FIGURES` names.
#[test]
#[ignore = "a minute of measuring; run by `cargo xtask figures`"]
fn full() {
    require_root!();
    let mut rig = Rig::load();
    let mut all = vec![];
    let tables =
        [Table::embedded(), Table::generated("100,000 + 100,000 prefixes", 100_000, 100_000)];
    for table in &tables {
        rows::check_answers(&mut rig, table);
        for family in [4, 6] {
            let figures = rows::measure(&mut rig, table, family, &Effort::FULL);
            eprint!("{}", report::text(&figures));
            all.push(figures);
        }
    }
    let publish = rows::publish_times(&mut rig, &tables);
    eprint!("{}", report::publish_text(&publish));
    let path = std::env::var_os("SOV_FIGURES").unwrap_or_else(|| "figures.json".into());
    let json = serde_json::to_vec_pretty(&report::json(&all, &publish)).expect("numbers and names");
    std::fs::write(&path, json).expect("the report's file is writable");
}
