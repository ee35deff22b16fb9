//! `status`: what the running agent says, or what a dead one has left pinned. Asks the control socket;
//! without an agent it reads the pin folder's listing.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use sov_common::abi::ABI_VERSION;

use super::{
    FINDING, Global, OK,
    output::{Cell, Output, Paint, Table},
};
use crate::{
    agent::Paths,
    control::{
        client::{self, ClientError},
        status::{Counter, Link, Rejects, Status},
    },
    flowlog::record::Mode,
};

/// Deeper pins are none of ours.
const PIN_DEPTH: usize = 4;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent status
  sov-agent status --format json | jq .ledger
  watch -n1 sov-agent status --color always

Exit status: 0 the agent runs, 1 it does not but pinned links go on enforcing, 2 neither.")]
pub struct Args {
    /// Control socket of the agent
    #[arg(long, value_name = "FILE", default_value_os_t = Paths::from_env().socket())]
    socket: PathBuf,
    /// Where pins are looked for when no agent answers
    #[arg(long, value_name = "DIR", default_value_os_t = Paths::from_env().pins)]
    pins: PathBuf,
}

#[derive(Serialize)]
struct Running<'a> {
    running: bool,
    #[serde(flatten)]
    status: &'a Status,
}

/// What a dead agent left.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pinned {
    running: bool,
    /// Links still judge packets.
    enforcing: bool,
    /// Pinned links, sorted.
    links: Vec<PathBuf>,
    /// Everything else that is pinned: maps, with counters and flows in them.
    maps: Vec<PathBuf>,
    /// Whether some of it belongs to another version of the agent.
    other_versions: bool,
}

impl Pinned {
    /// Reads the listing of `dir`, which has a folder per ABI version: `v1/links/…`, `v1/maps/…`.
    fn find(dir: &Path) -> io::Result<Self> {
        let own = format!("v{ABI_VERSION}");
        let below = |path: &PathBuf| path.strip_prefix(dir).unwrap_or(path).to_owned();
        let all = pins(dir)?;
        let other_versions = all.iter().any(|path| !below(path).starts_with(&own));
        let (links, maps): (Vec<_>, Vec<_>) = (all.into_iter())
            .partition(|path| below(path).iter().nth(1).is_some_and(|folder| folder == "links"));
        Ok(Self { running: false, enforcing: !links.is_empty(), links, maps, other_versions })
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = Output::new(global);
    match runtime.block_on(client::status(&args.socket)) {
        Ok(status) => {
            if out.is_json() {
                out.json(&Running { running: true, status: &status })?;
            } else {
                print(&mut out, &status)?;
            }
            out.finish()?;
            Ok(ExitCode::from(OK))
        }
        Err(ClientError::NotRunning(_)) => without_agent(args, out),
        Err(e) => Err(e).with_context(|| format!("control socket {}", args.socket.display())),
    }
}

fn without_agent(args: &Args, mut out: Output) -> anyhow::Result<ExitCode> {
    let pinned =
        Pinned::find(&args.pins).with_context(|| format!("pins below {}", args.pins.display()))?;
    if !pinned.enforcing {
        bail!(
            "no agent is listening on {}, and no link is pinned below {}: nothing is enforced; \
             start one with `sov-agent run`",
            args.socket.display(),
            args.pins.display()
        );
    }
    if out.is_json() {
        out.json(&pinned)?;
    } else {
        writeln!(
            out,
            "agent    {}; enforcement stays on with the policy that was live\n\
             records  blocked traffic is counted, and recorded as far as the kernel's buffers have room\n\
             fix      `sov-agent run` takes over without a gap\n\nlinks:",
            out.paint(Paint::Red, "not running")
        )?;
        for path in &pinned.links {
            writeln!(out, "  {}", crate::text::visible(&path.to_string_lossy()))?;
        }
        if pinned.other_versions {
            writeln!(out, "\nSome of it belongs to another version: see `sov-agent doctor`.")?;
        }
    }
    out.finish()?;
    Ok(ExitCode::from(FINDING))
}

/// Every pin below `dir`; none where `dir` is missing.
fn pins(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                found.push(entry.path());
            } else if depth > 0 {
                walk(&entry.path(), depth - 1, found)?;
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    match walk(dir, PIN_DEPTH, &mut found) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => found.sort_unstable(),
    }
    Ok(found)
}

fn print(out: &mut Output, status: &Status) -> io::Result<()> {
    let Status { agent, policy, ledger, journal, flow_table, .. } = status;
    let mut facts = Table::new(&[]);
    let mut fact = |name: &str, value: String| facts.row([name.into(), value.into()]);
    fact(
        "agent",
        format!(
            "running: pid {}, version {}, up {}, on {}",
            agent.pid,
            agent.version,
            span(agent.uptime_seconds),
            agent.host.name
        ),
    );
    let hash = policy.hash.get(..12).unwrap_or(&policy.hash);
    let source = policy.source.as_deref().unwrap_or("embedded profile");
    fact("policy", format!("{} ({source}), generation {}, {hash}", policy.name, policy.generation));
    let untagged = policy.untagged.as_ref().map(|tag| format!("judged as {tag}"));
    fact("untagged", untagged.unwrap_or_else(|| "passes".into()));
    for data in &status.datasets {
        let stale = if data.stale { ", STALE" } else { "" };
        fact("data", format!("{}, {} old{stale}", data.id, span(data.age_seconds)));
    }
    for interface in &status.interfaces {
        fact("interface", format!("{}: {}", interface.name, links(&interface.links)));
    }
    if let Some(cgroup) = &status.cgroup {
        fact("cgroup", format!("{}: {}", cgroup.path, links(&cgroup.links)));
    }
    let sign = if ledger.balances() { "=" } else { "DOES NOT EQUAL" };
    fact(
        "ledger",
        format!(
            "{} blocked {sign} {} recorded + {} aggregated + {} suppressed + {} lost",
            ledger.blocked, ledger.recorded, ledger.aggregated, ledger.suppressed, ledger.lost
        ),
    );
    let rejects = &status.rejects;
    if *rejects != Rejects::default() {
        fact(
            "rejects",
            format!(
                "{} sent, {} kept back by the rate limit, {} failed",
                rejects.sent, rejects.suppressed, rejects.failed
            ),
        );
    }
    fact("flow table", format!("{} of {} entries", flow_table.entries, flow_table.capacity));
    let mut text = format!(
        "{}: {} segments, {}, next record {}, {} lost",
        journal.dir.display(),
        journal.segments,
        size(journal.bytes),
        journal.next_sequence,
        journal.lost
    );
    if let Some(error) = &journal.last_error {
        text += &format!("; last error: {error}");
    }
    fact("journal", text);
    out.table(&facts)?;

    let mut tags = Table::new(&["TAG", "TIER", "MODE", "RESPONSE", "RANK"]).right(&[4]);
    for tag in &status.tags {
        let paint = if tag.mode == Mode::Enforce { Paint::Green } else { Paint::Yellow };
        let response = match tag.response {
            crate::flowlog::record::Response::Reject => "reject",
            crate::flowlog::record::Response::Drop => "drop",
        };
        tags.row([
            (&*tag.name).into(),
            (&*tag.tier).into(),
            Cell::painted(paint, tag.mode.as_str()),
            response.into(),
            tag.rank.to_string().into(),
        ]);
    }
    section(out, &tags)?;

    section(out, &traffic(&status.counters, "TAG"))?;
    section(out, &traffic(&status.xdp_counters, "TAG, AT XDP"))?;
    if !status.warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in &status.warnings {
        let word = out.paint(Paint::Yellow, "warning").into_owned();
        writeln!(out, "{word}: {}", crate::text::visible(warning))?;
    }
    Ok(())
}

fn traffic(counters: &[Counter], heading: &'static str) -> Table {
    let mut traffic =
        Table::new(&[heading, "VERDICT", "REASON", "PACKETS", "BYTES"]).right(&[3, 4]);
    for counter in counters {
        let paint = match &*counter.verdict {
            "allow" => Paint::Green,
            "block" => Paint::Red,
            _ => Paint::Yellow,
        };
        traffic.row([
            counter.tag.as_deref().unwrap_or("-").into(),
            Cell::painted(paint, &*counter.verdict),
            (&*counter.reason).into(),
            counter.packets.to_string().into(),
            counter.bytes.to_string().into(),
        ]);
    }
    traffic
}

fn section(out: &mut Output, table: &Table) -> io::Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    out.table(table)
}

/// `tc_egress (tcx, link 12)`; links that end with the agent say so.
fn links(links: &[Link]) -> String {
    let text = |link: &Link| {
        let id = link.id.map(|id| format!(", link {id}")).unwrap_or_default();
        let pinned = if link.pinned { "" } else { ", NOT PINNED" };
        format!("{} ({}{id}{pinned})", link.hook, link.kind)
    };
    links.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Seconds, in the two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pinned_links_enforce() {
        let dir = tempfile::tempdir().expect("temp dir");
        let base = dir.path();
        let own = base.join(format!("v{ABI_VERSION}"));
        fs::create_dir_all(own.join("links")).expect("mkdir");
        fs::create_dir_all(own.join("maps")).expect("mkdir");
        fs::write(own.join("maps/SOV_FLOWS"), "").expect("writes");
        let pinned = Pinned::find(base).expect("reads");
        assert!(!pinned.enforcing && !pinned.other_versions, "{pinned:?}");
        assert_eq!(pinned.maps, [own.join("maps/SOV_FLOWS")]);
        fs::write(own.join("links/tc_egress-2-eth0"), "").expect("writes");
        let pinned = Pinned::find(base).expect("reads");
        assert!(pinned.enforcing && !pinned.other_versions, "{pinned:?}");
        assert_eq!(pinned.links, [own.join("links/tc_egress-2-eth0")]);
        fs::create_dir_all(base.join("v999/links")).expect("mkdir");
        fs::write(base.join("v999/links/x"), "").expect("writes");
        assert!(Pinned::find(base).expect("reads").other_versions);
        assert!(!Pinned::find(&base.join("none")).expect("reads").enforcing);
    }

    #[test]
    fn spans_and_sizes_are_readable() {
        let spans = [5, 65, 3 * 3600 + 120, 93_784].map(span);
        assert_eq!(spans, ["5 s", "1 min 5 s", "3 h 2 min", "1 d 2 h"]);
        assert_eq!([999, 70_000, 70_000_000].map(size), ["999 B", "70 kB", "70 MB"]);
    }

    #[test]
    fn links_that_end_with_the_agent_stand_out() {
        let mut status = crate::control::status::samples::status();
        let links_of = |status: &Status| links(&status.interfaces[0].links);
        assert_eq!(links_of(&status), "tc_egress (tcx, link 12)");
        status.interfaces[0].links[0].pinned = false;
        assert_eq!(links_of(&status), "tc_egress (tcx, link 12, NOT PINNED)");
    }
}
