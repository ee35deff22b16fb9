//! `check`: reads, lints and compiles a policy, runs its tests, and says everything that is wrong with it.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    FINDING, Global, OK, inputs,
    output::{Output, Paint, Table, use_color},
};
use crate::policy::{
    self, Compiled, Diagnostic, Environment, Parsed, Unresolved,
    diagnostic::{self, MAX_DIAGNOSTICS},
    meta::TagMeta,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent check policy.toml
  sov-agent check --profile two-tier-govcloud
  sov-agent check policy.toml --emit policy.image
  sov-agent --format json check policy.toml

Exit status: 0 the policy may be used, 1 it has errors, 2 it cannot be read.")]
pub struct Args {
    /// Policy file; `-` reads stdin
    #[arg(value_name = "FILE", required_unless_present = "profile", conflicts_with = "profile")]
    file: Option<PathBuf>,
    /// Check an embedded profile instead
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Folder with MMDB files, prefix lists and operators.csv over the embedded data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the compiled image to this file
    #[arg(long, value_name = "FILE")]
    emit: Option<PathBuf>,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let now = inputs::now();
    let source = inputs::read_policy(args.file.as_deref(), args.profile.as_deref())?;
    let data = inputs::read_data(args.data.as_deref(), now)?;
    let started = Instant::now();
    let parsed = policy::parse(source);
    let compiled = policy::compile(&parsed, &data, &Environment::default(), now);
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    if let (Ok(compiled), Some(path)) = (&compiled, &args.emit) {
        write_image(path, &compiled.image.to_bytes())?;
    }
    let mut out = Output::new(global);
    let good = compiled.is_ok();
    if out.is_json() {
        out.json(&report(&parsed, compiled.as_ref(), milliseconds))?;
    } else {
        let color = use_color(global.color);
        match &compiled {
            Ok(compiled) => {
                write_findings(&mut out, &parsed, &compiled.warnings, color)?;
                write_summary(&mut out, &parsed, compiled, milliseconds)?;
            }
            Err(findings) => {
                write_findings(&mut out, &parsed, findings, color)?;
                let errors = findings.iter().filter(|d| d.is_error()).count();
                let warnings = findings.len() - errors;
                let head = out.paint(Paint::Red, "not usable").into_owned();
                let name = crate::text::visible(&parsed.source.name);
                writeln!(
                    out,
                    "{name}: {head}: {}, {}",
                    count(errors, "error"),
                    count(warnings, "warning")
                )?;
            }
        }
    }
    out.finish()?;
    Ok(ExitCode::from(if good { OK } else { FINDING }))
}

/// Whole or not at all: beside the target, then renamed.
fn write_image(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may not exist; the error that matters is the one above.
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write the image {}", path.display()))
}

fn write_findings(
    out: &mut Output,
    parsed: &Parsed,
    findings: &[Diagnostic],
    color: bool,
) -> anyhow::Result<()> {
    for finding in findings.iter().take(MAX_DIAGNOSTICS) {
        writeln!(out, "{}\n", finding.render(&parsed.source, color))?;
    }
    if let Some(more) = findings.len().checked_sub(MAX_DIAGNOSTICS).filter(|more| *more > 0) {
        writeln!(out, "... and {more} more\n")?;
    }
    Ok(())
}

fn write_summary(
    out: &mut Output,
    parsed: &Parsed,
    compiled: &Compiled,
    milliseconds: f64,
) -> anyhow::Result<()> {
    let (meta, spec) = (&compiled.meta, &compiled.spec);
    let head = out.paint(Paint::Green, "usable").into_owned();
    let name = crate::text::visible(&parsed.source.name);
    writeln!(out, "{name}: {head}, {}", count(compiled.warnings.len(), "warning"))?;
    let tests: usize = tests(parsed);
    writeln!(
        out,
        "{} tags, {} tiers, {} rules, {} classes, {} passed",
        meta.tags.len(),
        meta.tiers.len(),
        meta.rules.len(),
        spec.classes,
        count(tests, "test"),
    )?;
    writeln!(
        out,
        "image {} bytes, {} IPv4 and {} IPv6 intervals, compiled in {milliseconds:.1} ms",
        compiled.image.words().len() * 4,
        spec.v4.len(),
        spec.v6.len(),
    )?;
    writeln!(out, "policy hash {}\n", meta.hash)?;
    let mut table =
        Table::new(&["TAG", "TIER", "RANK", "MODE", "RESPONSE", "SELECTORS"]).right(&[2]);
    for (tag, written) in meta.tags.iter().zip(&parsed.policy.tags) {
        let default = meta.untagged.as_deref() == Some(&tag.name);
        let selectors = match (written.select.len(), default) {
            (0, true) => "all untagged traffic".to_owned(),
            (n, true) => format!("{n} and all untagged traffic"),
            (n, false) => n.to_string(),
        };
        table.row([
            tag.name.as_str().into(),
            tag.tier.as_str().into(),
            tag.rank.to_string().into(),
            tag.mode.as_str().into(),
            tag.response.as_str().into(),
            selectors.into(),
        ]);
    }
    out.table(&table)?;
    Ok(())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn tests(parsed: &Parsed) -> usize {
    parsed.policy.tests.iter().map(|test| test.reach.len() + test.refuse.len()).sum()
}

/// The JSON document.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    usable: bool,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<diagnostic::Record>,
    milliseconds: f64,
    #[serde(flatten)]
    summary: Option<Summary<'a>>,
}

#[derive(Serialize)]
struct Summary<'a> {
    policy: &'a str,
    /// SHA-256 of the policy source and its data.
    hash: &'a str,
    /// SHA-256 of the image.
    image_hash: String,
    image_bytes: usize,
    tags: &'a [TagMeta],
    tiers: Vec<&'a str>,
    rules: usize,
    classes: u16,
    intervals_v4: usize,
    intervals_v6: usize,
    tests: usize,
    datasets: &'a [String],
    data_built: u64,
    unresolved: &'a [Unresolved],
}

fn report<'a>(
    parsed: &'a Parsed,
    compiled: Result<&'a Compiled, &'a Vec<Diagnostic>>,
    milliseconds: f64,
) -> Report<'a> {
    let findings: &[Diagnostic] = match &compiled {
        Ok(compiled) => &compiled.warnings,
        Err(findings) => findings,
    };
    let errors = findings.iter().filter(|d| d.is_error()).count();
    let summary = compiled.ok().map(|compiled| Summary {
        policy: &compiled.meta.name,
        hash: &compiled.meta.hash,
        image_hash: compiled.image.content_hash().iter().map(|b| format!("{b:02x}")).collect(),
        image_bytes: compiled.image.words().len() * 4,
        tags: &compiled.meta.tags,
        tiers: compiled.meta.tiers.iter().map(|tier| tier.name.as_str()).collect(),
        rules: compiled.meta.rules.len(),
        classes: compiled.spec.classes,
        intervals_v4: compiled.spec.v4.len(),
        intervals_v6: compiled.spec.v6.len(),
        tests: tests(parsed),
        datasets: &compiled.meta.datasets,
        data_built: compiled.meta.data_built,
        unresolved: &compiled.unresolved,
    });
    Report {
        file: &parsed.source.name,
        usable: summary.is_some(),
        errors,
        warnings: findings.len() - errors,
        diagnostics: findings.iter().map(|d| d.record(&parsed.source)).collect(),
        milliseconds,
        summary,
    }
}
