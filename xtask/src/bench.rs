//! `bench`: set-up, release build, the measurement as root, and the report from what it measured.
//!
//! The measuring is in `tests/bench`; here its `report.json` becomes a page and a text.

mod html;
mod markdown;
#[path = "../../tests/bench/model.rs"]
mod model;
mod svg;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    exec::{self, Elevation},
    packages, setup,
    test::{self, Profile},
    workspace,
};
use model::Report;

const TIER: &str = "bench";
const DOCUMENT: &str = "docs/PERFORMANCE.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Few rounds and no table above 100,000 prefixes: shows that everything works
    #[arg(long)]
    quick: bool,
    /// Only these sections, separated by commas: program, upkeep, wire, tcp, cores, xdp, memory
    #[arg(long, value_name = "SECTIONS")]
    only: Option<String>,
    /// Put the result into docs/PERFORMANCE.md
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write_docs: bool,
    /// Draw this report.json again and measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only"])]
    from: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let metadata = workspace::members()?;
    let target = workspace::target_folder(&metadata)?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if let Some(from) = &args.from {
        return draw(args, &read(from)?, &folder);
    }
    setup::run(packages::Use::Bench)?;
    exec::step("building the agent", "the release profile is what is measured");
    let mut build = exec::cargo();
    build.current_dir(workspace::root()).args(["build", "--release", "--package", "sov-agent"]);
    exec::run(&mut build)?;
    let Some((binary, package)) = test::build(TIER, Profile::Release)? else {
        return Ok(ExitCode::FAILURE);
    };
    if exec::elevation() == Elevation::Impossible {
        bail!(
            "the benchmark makes namespaces and loads eBPF programs: run it as root or with sudo"
        );
    }
    let json = folder.join("report.json");
    let why = "as root, up to ten minutes; nothing else should run meanwhile";
    exec::step("measuring", if args.quick { "as root, about a minute" } else { why });
    exec::run(&mut measure(args, &binary, &package, &target, &json))?;

    draw(args, &read(&json)?, &folder)
}

/// Page and text of a report.
fn draw(args: &Args, report: &Report, folder: &Path) -> Result<ExitCode> {
    for (name, content) in
        [("report.html", html::page(report)), ("report.md", markdown::page(report, |_| true))]
    {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.write_docs {
        let path = workspace::root().join(DOCUMENT);
        let old = fs::read_to_string(&path).with_context(|| format!("cannot read {DOCUMENT}"))?;
        fs::write(&path, markdown::insert(&old, &markdown::page(report, markdown::is_brief))?)?;
        exec::step(DOCUMENT, "has the figures of this run");
    }
    print!("{}", markdown::targets(report));
    println!("\n{}", folder.join("report.html").display());
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args, binary: &Path, package: &Path, target: &Path, json: &Path) -> Command {
    let mut variables = vec![
        ("SOV_BENCH", json.display().to_string()),
        ("SOV_AGENT_BIN", target.join("release/sov-agent").display().to_string()),
        ("SOV_REQUIRE_PRIVILEGED", "1".to_owned()),
    ];
    if args.quick {
        variables.push(("SOV_BENCH_QUICK", "1".to_owned()));
    }
    if let Some(only) = &args.only {
        variables.push(("SOV_BENCH_ONLY", only.clone()));
    }
    let mut command = exec::as_root(binary.as_os_str(), &variables);
    command.current_dir(package).args(["--ignored", "--nocapture", "--exact", "full"]);
    command
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("no report at {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text).context("the report is not readable")?;
    ensure!(report.version == model::VERSION, "the report has version {}", report.version);
    Ok(report)
}

/// A figure in about three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        1e6.. => format!("{:.2} M", value / 1e6),
        1e4.. => format!("{:.1} k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

/// Days since 1970 as a date (Howard Hinnant's civil-from-days), UTC.
fn date(seconds: u64) -> String {
    let z = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::{
        model::{Group, Plot, Row, Section, Series, Target},
        *,
    };

    /// One of everything, with text that a page must escape.
    pub(super) fn sample() -> Report {
        let row = |id: &str, value: Option<f64>, note: &str| Row {
            id: id.into(),
            name: format!("{id} <row>"),
            value,
            low: 90.0,
            high: 120.0,
            rounds: 7,
            ratio: value.map(|value| [0.9, value / 100.0, 1.2]),
            note: note.into(),
        };
        let group = Group {
            id: "g".into(),
            title: "group & title".into(),
            unit: "ns".into(),
            base: "a <row>".into(),
            rows: vec![row("a", Some(100.0), ""), row("b", None, "nft is not installed")],
        };
        let series = Series { name: "ours".into(), points: vec![(1e3, 10.0), (1e6, 200.0)] };
        let plot = Plot {
            title: "growth".into(),
            x: "prefixes".into(),
            y: "ns".into(),
            series: vec![series],
        };
        let target = |metric: &str, reached| Target {
            metric: metric.into(),
            reach: "at most 45 ns".into(),
            measured: "44 ns".into(),
            reached,
        };
        Report {
            version: model::VERSION,
            started: 1_795_478_400,
            environment: vec![("kernel".into(), "6.18".into())],
            sections: vec![Section {
                id: "s".into(),
                title: "section".into(),
                about: vec!["about this".into()],
                plots: vec![plot],
                groups: vec![group],
            }],
            targets: vec![target("x", Some(true)), target("y", Some(false)), target("z", None)],
            ..Report::default()
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [5_400_000.0, 12_345.0, 123.4, 12.34, 1.234, 0.1234, 0.0].map(number);
        assert_eq!(shown, ["5.40 M", "12.3 k", "123", "12.3", "1.23", "0.123", "0"]);
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(1_795_478_400), "2026-11-24");
    }
}
