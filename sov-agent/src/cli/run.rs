//! `run`: the daemon. Attach, enforce, record, answer the control socket.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::ValueEnum as _;

use super::{Global, OK, logging};
use crate::{
    agent::{Config, Core, Paths, Settings, StartError, serve},
    control::status::{Link, Status},
    datapath::Tc,
    metrics,
    policy::diagnostic::MAX_DIAGNOSTICS,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent run
  sov-agent run --policy /etc/sov/policy.toml --interface eth0
  sov-agent -vv run --policy policy.toml
  sov-agent run --xdp eth1 --policy /etc/sov/policy.toml
  sov-agent run --config /etc/sov/agent.toml
  sov-agent run --detach

Without options: the embedded profile in audit mode, on every interface that a default route leads
through. SIGHUP reads policy and data again. SIGINT or SIGTERM end the agent; enforcement stays on
without it, unless --detach was given. `sov-agent detach` removes what a stopped agent left.

Exit status: 0 stopped cleanly, 2 could not start (nothing was changed, unless the message says so).")]
pub struct Args {
    /// Policy file; without it the embedded profile two-tier-govcloud in audit mode
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Folder with MMDB files, prefix lists and operators.csv over the embedded data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Uplinks to guard; without it every interface with a default route, now and later
    #[arg(long = "interface", value_name = "NAME", num_args = 1..)]
    interfaces: Vec<String>,
    /// Inside interfaces of a gateway: XDP judges what they receive, before the kernel makes a socket
    /// buffer of it; native where the driver can, else generic, which `status` names
    #[arg(long, value_name = "NAME", num_args = 1..)]
    xdp: Vec<String>,
    /// Settings file (/etc/sov/agent.toml); options here win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How programs are attached to interfaces: tcx links, or filters on clsact (kernels before
    /// 6.6); auto takes what the kernel has
    #[arg(long, value_enum, value_name = "HOW")]
    tc: Option<TcArg>,
    /// Packets that pass are final: tc programs of others that come later do not see them
    #[arg(long)]
    pass_is_final: bool,
    /// Remove all programs when the agent stops: nothing is enforced without it
    #[arg(long)]
    detach: bool,
    /// Where Prometheus may ask, or `off` [default: 127.0.0.1:9477]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
}

/// Answers a second and CPU: more than people and their programs need, less than a flood.
const REJECT_RATE: u32 = 1000;

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum TcArg {
    Auto,
    Tcx,
    Clsact,
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
    let metrics = match args.metrics.as_deref().or(file.metrics.as_deref()) {
        None => Some(metrics::DEFAULT_ADDRESS),
        Some("off") => None,
        Some(address) => Some(address.parse::<SocketAddr>().with_context(|| {
            format!("metrics {address}: write an address and port such as 127.0.0.1:9477, or off")
        })?),
    };
    let tc = match (args.tc, file.tc.as_deref()) {
        (Some(tc), _) => tc,
        (None, None) => TcArg::Auto,
        (None, Some(word)) => TcArg::from_str(word, false)
            .map_err(|_| anyhow::anyhow!("tc = \"{word}\": write auto, tcx or clsact"))?,
    };
    let config = Config {
        paths: Paths::from_env(),
        policy: args.policy.clone().or(file.policy),
        data: args.data.clone().or(file.data),
        interfaces: if args.interfaces.is_empty() {
            file.interfaces
        } else {
            args.interfaces.clone()
        },
        xdp: if args.xdp.is_empty() { file.xdp } else { args.xdp.clone() },
        reject_rate: file.reject_rate.unwrap_or(REJECT_RATE),
        pass_is_final: args.pass_is_final || file.pass_is_final,
        tc: match tc {
            TcArg::Auto => Tc::detect(),
            TcArg::Tcx => Tc::Tcx,
            TcArg::Clsact => Tc::Clsact,
        },
        metrics,
        // -vv shows what the kernel programs say.
        kernel_log: match global.verbose {
            0 | 1 => None,
            2 => Some(log::Level::Debug),
            _ => Some(log::Level::Trace),
        },
    };
    let core = Core::start(config.clone()).map_err(explain)?;
    summary(&core.status()?);
    let core = serve(core, &config)?;
    farewell(core, args.detach)?;
    Ok(ExitCode::from(OK))
}

/// Findings of a policy are shown with their lines before the error itself.
fn explain(error: StartError) -> anyhow::Error {
    if let StartError::Policy { findings, source_text, .. } = &error {
        for finding in findings.iter().filter(|f| f.is_error()).take(MAX_DIAGNOSTICS) {
            logging::plain(&finding.render(&source_text.source, false));
        }
    }
    error.into()
}

/// What is guarded now, in the words of whoever started it.
fn summary(status: &Status) {
    let policy = &status.policy;
    let source = policy.source.as_deref().unwrap_or("embedded profile");
    logging::plain(&format!(
        "policy {} ({source}), generation {}, hash {}",
        policy.name,
        policy.generation,
        policy.hash.get(..16).unwrap_or(&policy.hash)
    ));
    for tag in &status.tags {
        let mode = match tag.mode.as_str() {
            "audit" => "audit: recorded, nothing is blocked",
            mode => mode,
        };
        logging::plain(&format!("  tag {} -> tier {} ({mode})", tag.name, tag.tier));
    }
    match &policy.untagged {
        Some(tag) => logging::plain(&format!("  everything else -> tag {tag}")),
        None => logging::plain("  everything else passes, unjudged"),
    }
    for data in &status.datasets {
        let stale = if data.stale { ", STALE" } else { "" };
        logging::plain(&format!("data {}: {} days old{stale}", data.id, data.age_seconds / 86_400));
    }
    for interface in &status.interfaces {
        let hooks: Vec<_> = interface.links.iter().map(hook).collect();
        logging::plain(&format!("guarding {} ({})", interface.name, hooks.join(", ")));
    }
    if let Some(cgroup) = &status.cgroup {
        let hooks: Vec<_> = cgroup.links.iter().map(|l| l.hook.as_str()).collect();
        logging::plain(&format!("guarding sockets below {} ({})", cgroup.path, hooks.join(", ")));
    }
    logging::plain(&format!("flow log {}", status.journal.dir.display()));
    for warning in &status.warnings {
        log::warn!("{warning}");
    }
    logging::plain("ready; stop with Ctrl-C");
}

/// XDP says its mode: generic is a fallback.
fn hook(link: &Link) -> String {
    if link.hook == "xdp" { format!("xdp, {}", link.kind) } else { link.hook.clone() }
}

fn farewell(core: Core, detach: bool) -> anyhow::Result<()> {
    let (links, folder) = (core.pinned_links(), core.pin_folder());
    if detach {
        core.detach().with_context(|| format!("removing the pins in {}", folder.display()))?;
        logging::plain("stopped; all programs are removed, nothing is enforced any more");
    } else {
        logging::plain(&format!(
            "stopped; enforcement stays on: {links} links are pinned in {}. `sov-agent run` takes \
             over, `sov-agent detach` removes them",
            folder.display()
        ));
    }
    Ok(())
}
