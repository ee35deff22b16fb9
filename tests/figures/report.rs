//! The report: a table for people, JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::rows::{
    ALLOWED_IMAGE, ALLOWED_TRIE, Figures, LOOKUP, LOOKUP_ALLOWED, LOOKUP_TRIE, Publish, Row,
};

pub(crate) fn text(figures: &Figures) -> String {
    let mut out = format!(
        "\n{}, IPv{}: {} intervals = {} prefixes, image {} KiB\n\
         ns per packet over the empty program: median [quartiles] minimum\n",
        figures.table,
        figures.family,
        figures.intervals,
        figures.prefixes,
        figures.image_bytes / 1024,
    );
    for row in &figures.rows {
        let (low, high) = row.quartiles;
        let _ = writeln!(
            out,
            "  {:<26} {:>8.1}  [{:.1} {:.1}]  {:.1}",
            row.name, row.median, low, high, row.minimum
        );
    }
    let (lookup, program) = ratios(figures);
    let _ = writeln!(
        out,
        "  LPM trie / image: lookup {lookup:.1}x, whole program {program:.1}x; the lookup is {:.0}% \
         of an allowed packet",
        100.0 * figures.median(LOOKUP_ALLOWED) / figures.median(ALLOWED_IMAGE)
    );
    out
}

/// LPM trie over image: lookup alone, whole program.
fn ratios(figures: &Figures) -> (f64, f64) {
    (
        figures.median(LOOKUP_TRIE) / figures.median(LOOKUP),
        figures.median(ALLOWED_TRIE) / figures.median(ALLOWED_IMAGE),
    )
}

pub(crate) fn publish_text(publish: &[Publish]) -> String {
    let mut out = String::from("\npolicy change: compile, then write and swap\n");
    for one in publish {
        let _ = writeln!(
            out,
            "  {:<32} image {} KiB, compile {:.0} ms, publish {:.1} ms [{:.1} {:.1}]",
            one.table,
            one.image_bytes / 1024,
            one.compile_ms,
            one.publish_ms.median,
            one.publish_ms.quartiles.0,
            one.publish_ms.quartiles.1,
        );
    }
    out
}

pub(crate) fn json(figures: &[Figures], publish: &[Publish]) -> Value {
    let tables: Vec<Value> = figures
        .iter()
        .map(|one| {
            let (lookup, program) = ratios(one);
            json!({
                "table": one.table,
                "family": one.family,
                "intervals": one.intervals,
                "prefixes": one.prefixes,
                "image_bytes": one.image_bytes,
                "empty_ns": one.empty_ns,
                "rows": one.rows.iter().map(row).collect::<Vec<_>>(),
                "trie_over_image": { "lookup": lookup, "program": program },
            })
        })
        .collect();
    let publish: Vec<Value> = publish
        .iter()
        .map(|one| {
            json!({
                "table": one.table,
                "image_bytes": one.image_bytes,
                "compile_ms": one.compile_ms,
                "publish_ms": one.publish_ms.median,
            })
        })
        .collect();
    json!({ "unit": "ns per packet over the empty program", "figures": tables, "publish": publish })
}

fn row(row: &Row) -> Value {
    json!({
        "name": row.name,
        "median": row.median,
        "quartiles": [row.quartiles.0, row.quartiles.1],
        "minimum": row.minimum,
    })
}
