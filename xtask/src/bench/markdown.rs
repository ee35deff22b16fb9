//! The report as text, in full and as docs/PERFORMANCE.md holds it: targets, then rows.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::{
    date,
    model::{Group, Report},
    number,
};

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// What the document holds: the embedded table and the largest, and what is about no table.
pub(super) fn is_brief(group: &str) -> bool {
    let has = |table: &str| group.split('.').any(|part| part == table);
    let large = has("100k") || has("1m");
    let shown = group.starts_with("program.") || group.starts_with("change.");
    !has("1k") && !has("10k") && (!large || shown)
}

/// `wanted`: the groups to show, by id.
pub(super) fn page(report: &Report, wanted: impl Fn(&str) -> bool) -> String {
    let mut out = format!("Measured {}, {:.0} s", date(report.started), report.seconds);
    out.push_str(if report.quick { ", quick run. " } else { ". " });
    let facts: Vec<String> =
        report.environment.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let _ = writeln!(out, "{}.\n", facts.join("; "));
    out.push_str(&targets(report));
    for section in &report.sections {
        let _ = writeln!(out, "\n### {}\n", section.title);
        for paragraph in &section.about {
            let _ = writeln!(out, "{paragraph}\n");
        }
        for part in section.groups.iter().filter(|group| wanted(&group.id)) {
            group(part, &mut out);
        }
    }
    out
}

pub(super) fn targets(report: &Report) -> String {
    let mut out = String::from("| figure | to reach | measured | |\n|---|---|---|---|\n");
    for target in &report.targets {
        let word = match target.reached {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {word} |",
            cell(&target.metric),
            cell(&target.reach),
            cell(&target.measured)
        );
    }
    out
}

fn group(group: &Group, out: &mut String) {
    let base = if group.base.is_empty() { String::new() } else { format!("by \"{}\"", group.base) };
    let _ = writeln!(
        out,
        "{}\n\n| | {} | quartiles | {} | |\n|---|--:|--:|--:|---|",
        group.title,
        cell(&group.unit),
        cell(&base)
    );
    for row in &group.rows {
        let (value, spread, ratio) = match row.value {
            None => Default::default(),
            Some(value) => (
                number(value),
                format!("{} to {}", number(row.low), number(row.high)),
                row.ratio.map_or_else(String::new, |[low, middle, high]| {
                    format!("{middle:.3} ({low:.3} to {high:.3})")
                }),
            ),
        };
        let _ = writeln!(
            out,
            "| {} | {value} | {spread} | {ratio} | {} |",
            cell(&row.name),
            cell(&row.note)
        );
    }
    out.push('\n');
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// The document with what stands between its two marks replaced.
pub(super) fn insert(document: &str, text: &str) -> Result<String> {
    let missing = || format!("the document has no line `{BEGIN}` before a line `{END}`");
    let (before, rest) = document.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::sample, *};

    #[test]
    fn every_row_and_target_is_there() {
        let page = page(&sample(), |_| true);
        assert!(
            page.contains("| a <row> | 100 | 90.0 to 120 | 1.000 (0.900 to 1.200) |  |"),
            "{page}"
        );
        assert!(page.contains("| b <row> |  |  |  | nft is not installed |"), "{page}");
        assert!(page.contains("| y | at most 45 ns | 44 ns | **missed** |"), "{page}");
    }

    #[test]
    fn only_the_middle_of_a_document_changes() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = insert(&document, "new\n\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(insert(&new, "new").unwrap(), new);
        assert!(insert("a\n", "new").is_err());
    }
}
