//! The report as one page: no script, nothing fetched, readable in light and dark.

use std::fmt::Write as _;

use super::{
    date,
    model::{Group, Report, Row, Section},
    number, svg,
};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2024;--dim:#60646c;--line:#d9dce1;--good:#18794e;\
--bad:#c62a2f;--s0:#0b68cb;--s1:#d5590c;--s2:#18794e;--s3:#8e4ec6;--s4:#c2298a;--s5:#7a6000;\
--s6:#00788a;--s7:#6e6e6e}\
@media(prefers-color-scheme:dark){:root{--bg:#111315;--fg:#edeef0;--dim:#a0a6ad;--line:#363a3f;\
--good:#3dd68c;--bad:#ff9592;--s0:#70b8ff;--s1:#ffa057;--s2:#3dd68c;--s3:#d19dff;--s4:#ff8dcc;\
--s5:#f5e147;--s6:#4ccce6;--s7:#b4b4b4}}\
body{background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;max-width:70rem;\
margin:2rem auto;padding:0 1rem}h2{margin-top:3rem}h3{margin:2rem 0 .5rem;font-size:1rem}\
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;padding:.25rem .6rem;\
border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right;white-space:nowrap;\
font-variant-numeric:tabular-nums}.dim{color:var(--dim)}.good{color:var(--good);font-weight:600}\
.bad{color:var(--bad);font-weight:600}.bar{display:block;height:.6rem;margin-top:.45rem;\
background:var(--s0);min-width:1px}td.b{width:22%}.plots{display:flex;flex-wrap:wrap;gap:1.5rem}\
svg{width:32rem;max-width:100%;height:auto}svg text{fill:var(--fg);font:12px system-ui,sans-serif}\
svg .grid{stroke:var(--line)}.wide{overflow-x:auto}";

pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let quick = if report.quick { " (quick run: few rounds)" } else { "" };
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Benchmark</title><style>{STYLE}</style></head><body>\n<h1>Benchmark</h1>\n\
         <p>{}, {:.0} s of measuring{quick}. Medians over rounds that were measured in turns, with \
         first and third quartile. Read ratios: absolute times belong to the machine.</p>\n",
        date(report.started),
        report.seconds,
    );
    targets(report, &mut out);
    for part in &report.sections {
        section(part, &mut out);
    }
    out.push_str("<h2>Measured on</h2>\n<table>");
    for (name, value) in &report.environment {
        let _ = write!(out, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    out.push_str("</table>\n</body></html>\n");
    out
}

fn targets(report: &Report, out: &mut String) {
    let reached = report.targets.iter().filter(|target| target.reached == Some(true)).count();
    let _ = write!(
        out,
        "<h2>Targets: {reached} of {} reached</h2>\n<div class=\"wide\"><table><tr><th>figure</th>\
         <th>to reach</th><th>measured</th><th></th></tr>",
        report.targets.len()
    );
    for target in &report.targets {
        let (class, word) = match target.reached {
            Some(true) => ("good", "reached"),
            Some(false) => ("bad", "missed"),
            None => ("dim", "not measured"),
        };
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
            escape(&target.metric),
            escape(&target.reach),
            escape(&target.measured)
        );
    }
    out.push_str("</table></div>\n");
}

fn section(section: &Section, out: &mut String) {
    let _ = writeln!(out, "<h2 id=\"{}\">{}</h2>", section.id, escape(&section.title));
    for paragraph in &section.about {
        let _ = writeln!(out, "<p class=\"dim\">{}</p>", escape(paragraph));
    }
    out.push_str("<div class=\"plots\">");
    for plot in &section.plots {
        out.push_str(&svg::lines(plot));
    }
    out.push_str("</div>\n");
    for part in &section.groups {
        group(part, out);
    }
}

fn group(group: &Group, out: &mut String) {
    let _ = write!(
        out,
        "<h3>{}</h3>\n<div class=\"wide\"><table><tr><th></th><th class=\"n\">{}</th><th></th>\
         <th class=\"n\">quartiles</th><th class=\"n\">{}</th><th></th></tr>",
        escape(&group.title),
        escape(&group.unit),
        if group.base.is_empty() {
            String::new()
        } else {
            format!("by “{}”", escape(&group.base))
        },
    );
    let largest = group.rows.iter().filter_map(|row| row.value).fold(0.0, f64::max);
    for row in &group.rows {
        line(row, largest, out);
    }
    out.push_str("</table></div>\n");
}

fn line(row: &Row, largest: f64, out: &mut String) {
    let _ = write!(out, "<tr><td>{}</td>", escape(&row.name));
    match row.value {
        None => out.push_str("<td></td><td></td><td></td><td></td>"),
        Some(value) => {
            let width =
                if largest > 0.0 { (value / largest * 100.0).clamp(0.0, 100.0) } else { 0.0 };
            let ratio = row.ratio.map_or_else(String::new, |[low, middle, high]| {
                format!("{middle:.3} <span class=\"dim\">[{low:.3} {high:.3}]</span>")
            });
            let _ = write!(
                out,
                "<td class=\"n\">{}</td><td class=\"b\"><span class=\"bar\" \
                 style=\"width:{width:.1}%\"></span></td><td class=\"n dim\">{} – {}</td>\
                 <td class=\"n\">{ratio}</td>",
                number(value),
                number(row.low),
                number(row.high)
            );
        }
    }
    let _ = writeln!(out, "<td class=\"dim\">{}</td></tr>", escape(&row.note));
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{super::tests::sample, *};

    #[test]
    fn a_page_stands_alone_and_shows_everything() {
        let page = page(&sample());
        for outside in ["http:", "https:", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for shown in [
            "a &lt;row&gt;",
            "group &amp; title",
            "nft is not installed",
            "about this",
            "reached</td>",
            "missed</td>",
            "not measured</td>",
            "1 of 3 reached",
            "prefers-color-scheme:dark",
            "<svg",
            "2026-11-24",
        ] {
            assert!(page.contains(shown), "{shown}");
        }
        for tag in ["table", "div", "tr", "td", "svg", "span"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
