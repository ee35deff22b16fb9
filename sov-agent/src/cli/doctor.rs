//! `doctor`: what this host has and lacks for enforcement, each finding with its fix. Changes nothing.
//!
//! Reads /proc and /sys only; what needs a bpf() call to be known belongs to the datapath.

mod tc;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use sov_common::abi::ABI_VERSION;

use super::{
    FINDING, Global, OK,
    output::{Cell, Output, Paint, Table},
};
use crate::flowlog::host;

/// Ring buffer 5.8, boot clock in programs 5.8, memcg accounting instead of memlock 5.11.
const KERNEL_NEEDED: Version = Version(5, 15);
/// tcx links: <https://git.kernel.org/torvalds/c/e420bed02507>.
const KERNEL_TCX: Version = Version(6, 6);
/// BPF memory is charged to the cgroup, not to RLIMIT_MEMLOCK.
const KERNEL_MEMCG: Version = Version(5, 11);

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sov-agent doctor
  sov-agent doctor --format json | jq '.findings[] | select(.state != \"ok\")'

Exit status: 0 nothing needed is missing, 1 something is.")]
pub struct Args {
    /// Folder of the flow journal that is checked
    #[arg(long, value_name = "DIR", default_value_os_t = crate::agent::Paths::from_env().journal())]
    dir: PathBuf,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub state: State,
    pub detail: String,
    /// What to do about it; absent when nothing needs doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// Works, with a restriction.
    Warning,
    /// Needed, and not there.
    Missing,
}

impl Finding {
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Ok, detail: detail.into(), fix: None }
    }

    pub fn warning(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, state: State::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub fn missing(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, state: State::Missing, detail: detail.into(), fix: Some(fix.into()) }
    }
}

pub fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let mut findings = Host::new("/").findings(&args.dir);
    findings.extend(competing());
    let missing = findings.iter().filter(|f| f.state == State::Missing).count();
    let mut out = Output::new(global);
    if out.is_json() {
        out.json(&serde_json::json!({ "ready": missing == 0, "findings": findings }))?;
    } else {
        print(&mut out, &findings)?;
    }
    out.finish()?;
    Ok(ExitCode::from(if missing == 0 { OK } else { FINDING }))
}

fn print(out: &mut Output, findings: &[Finding]) -> io::Result<()> {
    let mut table = Table::new(&[]);
    for finding in findings {
        let (paint, word) = match finding.state {
            State::Ok => (Paint::Green, "ok"),
            State::Warning => (Paint::Yellow, "warning"),
            State::Missing => (Paint::Red, "missing"),
        };
        table.row([Cell::painted(paint, word), finding.check.into(), (&*finding.detail).into()]);
        if let Some(fix) = &finding.fix {
            table.row(["".into(), "".into(), Cell::painted(Paint::Cyan, format!("fix: {fix}"))]);
        }
    }
    out.table(&table)
}

/// The file tree that is looked at; tests bring their own.
struct Host {
    root: PathBuf,
}

impl Host {
    fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn findings(&self, journal: &Path) -> Vec<Finding> {
        let kernel = self.kernel();
        let mut findings = vec![
            kernel_finding(kernel),
            tcx(kernel),
            self.btf(),
            self.capabilities(),
            self.bpffs(),
            self.cgroup(),
            memlock(kernel),
            writable("journal", journal),
            writable("control", Path::new("/run/sov")),
        ];
        findings.extend(self.pins());
        findings
    }

    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(path))
    }

    fn kernel(&self) -> Option<Version> {
        Version::parse(&self.read("proc/sys/kernel/osrelease").ok()?)
    }

    fn btf(&self) -> Finding {
        match fs::metadata(self.root.join("sys/kernel/btf/vmlinux")) {
            Ok(meta) => {
                Finding::ok("btf", format!("/sys/kernel/btf/vmlinux, {} bytes", meta.len()))
            }
            Err(e) => Finding::missing(
                "btf",
                format!("/sys/kernel/btf/vmlinux: {e}"),
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            ),
        }
    }

    fn capabilities(&self) -> Finding {
        const FIX: &str = "run as root, or give the unit AmbientCapabilities=CAP_BPF CAP_NET_ADMIN";
        let status = match self.read("proc/self/status") {
            Ok(status) => status,
            Err(e) => {
                return Finding::missing("capabilities", format!("/proc/self/status: {e}"), FIX);
            }
        };
        let effective = (status.lines())
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let has = |cap: u32| effective & (1 << cap) != 0;
        let mut absent = Vec::new();
        if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
            absent.push("CAP_BPF");
        }
        if !has(CAP_NET_ADMIN) {
            absent.push("CAP_NET_ADMIN");
        }
        if absent.is_empty() {
            Finding::ok("capabilities", "CAP_BPF and CAP_NET_ADMIN are effective")
        } else {
            let detail = format!("not effective: {}", absent.join(", "));
            Finding::missing("capabilities", detail, FIX)
        }
    }

    fn bpffs(&self) -> Finding {
        let mounts = self.mounts();
        match mounts.iter().find(|m| m.kind == "bpf" && m.point == "/sys/fs/bpf") {
            Some(_) => Finding::ok("bpffs", "mounted at /sys/fs/bpf"),
            None => Finding::missing(
                "bpffs",
                "no bpf file system at /sys/fs/bpf: links and maps cannot outlive the agent",
                "mount -t bpf bpf /sys/fs/bpf",
            ),
        }
    }

    fn cgroup(&self) -> Finding {
        match self.mounts().iter().find(|m| m.kind == "cgroup2") {
            Some(mount) => Finding::ok("cgroup", format!("version 2 hierarchy at {}", mount.point)),
            None => Finding::missing(
                "cgroup",
                "no cgroup version 2 hierarchy: no EPERM at connect, no process in the records, no cgroup selectors",
                "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
            ),
        }
    }

    /// Pins of this and of other ABI versions.
    fn pins(&self) -> Vec<Finding> {
        let Ok(entries) = fs::read_dir(self.root.join("sys/fs/bpf/sov")) else {
            return vec![Finding::ok("pins", "none: no agent has left enforcement behind")];
        };
        let mut versions: Vec<u32> = (entries.flatten())
            .filter_map(|e| e.file_name().to_str()?.strip_prefix('v')?.parse().ok())
            .collect();
        versions.sort_unstable();
        (versions.into_iter())
            .map(|version| {
                if version == ABI_VERSION {
                    Finding::ok("pins", format!("/sys/fs/bpf/sov/v{version} is in place"))
                } else {
                    Finding::warning(
                        "pins",
                        format!("/sys/fs/bpf/sov/v{version} belongs to another version of the agent and still enforces its policy"),
                        format!("once this agent enforces: rm -r /sys/fs/bpf/sov/v{version}"),
                    )
                }
            })
            .collect()
    }

    fn mounts(&self) -> Vec<Mount> {
        let text = self.read("proc/self/mountinfo").unwrap_or_default();
        text.lines().filter_map(Mount::parse).collect()
    }
}

struct Mount {
    point: String,
    kind: String,
}

impl Mount {
    /// `41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw`: fields before ` - ` vary in number.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        Some(Self {
            point: before.split(' ').nth(4)?.to_owned(),
            kind: after.split(' ').next()?.to_owned(),
        })
    }
}

/// Major and minor number of a kernel release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    fn parse(release: &str) -> Option<Self> {
        let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
        Some(Self(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

fn kernel_finding(kernel: Option<Version>) -> Finding {
    let Version(major, minor) = KERNEL_NEEDED;
    let fix = format!("boot Linux {major}.{minor} or later");
    match kernel {
        Some(v) if v >= KERNEL_NEEDED => Finding::ok("kernel", format!("Linux {}.{}", v.0, v.1)),
        Some(v) => Finding::missing("kernel", format!("Linux {}.{} is too old", v.0, v.1), fix),
        None => Finding::missing("kernel", "/proc/sys/kernel/osrelease names no version", fix),
    }
}

fn tcx(kernel: Option<Version>) -> Finding {
    match kernel {
        Some(v) if v >= KERNEL_TCX => Finding::ok("tcx", "the kernel has tcx links"),
        _ => Finding::warning(
            "tcx",
            "no tcx links: clsact is used instead, and other programs may be ordered first",
            "boot Linux 6.6 or later where the order of programs matters",
        ),
    }
}

fn memlock(kernel: Option<Version>) -> Finding {
    if kernel.is_some_and(|v| v >= KERNEL_MEMCG) {
        return Finding::ok("memlock", "not limiting: BPF memory is charged to the cgroup");
    }
    match getrlimit(Resource::Memlock).current {
        None => Finding::ok("memlock", "unlimited"),
        Some(bytes) => Finding::missing(
            "memlock",
            format!("RLIMIT_MEMLOCK is {bytes} bytes"),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
    }
}

/// Programs of others on the way out.
fn competing() -> Vec<Finding> {
    let filters = match tc::egress_filters() {
        Ok(filters) => filters,
        Err(e) => {
            let detail = format!("tc filters cannot be listed: {e}");
            return vec![Finding::warning("competing", detail, "tc filter show dev IF egress")];
        }
    };
    if filters.is_empty() {
        return vec![Finding::ok("competing", "no tc filters on egress")];
    }
    let name = |index: i32| {
        let index = u32::try_from(index).unwrap_or(0);
        host::interface_name(index).unwrap_or_else(|| format!("interface {index}"))
    };
    (filters.iter())
        .map(|(&index, kinds)| {
            let name = name(index);
            Finding::warning(
                "competing",
                format!(
                    "{name} has egress filters in tc ({}): through tcx the agent runs before them, through clsact by priority",
                    kinds.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
                ),
                format!("check that none of them redirects: tc filter show dev {name} egress"),
            )
        })
        .collect()
}

/// Whether `dir`, or the nearest ancestor that exists, can be written to.
fn writable(check: &'static str, dir: &Path) -> Finding {
    let Some(there) = dir.ancestors().find(|a| a.exists()) else {
        return Finding::missing(check, format!("{}: no such path", dir.display()), "create it");
    };
    let shown = if there == dir {
        dir.display().to_string()
    } else {
        format!("{} (will be created below {})", dir.display(), there.display())
    };
    if !there.is_dir() {
        let fix = format!("move {} away", there.display());
        return Finding::missing(check, format!("{} is not a folder", there.display()), fix);
    }
    match rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => Finding::ok(check, format!("{shown} is writable")),
        Err(e) => Finding::missing(
            check,
            format!("{shown}: {}", io::Error::from(e)),
            format!("install -d -m 0750 {} for the agent's user", dir.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        let host = Host::new(dir.path());
        (dir, host)
    }

    fn state(findings: &[Finding], check: &str) -> State {
        findings.iter().find(|f| f.check == check).expect("checked").state
    }

    #[test]
    fn a_complete_host_lacks_nothing() {
        let (dir, host) = host(&[
            ("proc/sys/kernel/osrelease", "6.18.44-1-amd64\n"),
            ("sys/kernel/btf/vmlinux", "btf"),
            ("proc/self/status", "Name:\tx\nCapEff:\t0000008000001000\n"),
            (
                "proc/self/mountinfo",
                "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                 42 31 0:39 / /sys/fs/bpf rw,relatime shared:7 - bpf bpf rw\n",
            ),
        ]);
        let findings = host.findings(dir.path());
        let odd: Vec<_> =
            findings.iter().filter(|f| f.state != State::Ok && f.check != "control").collect();
        assert!(odd.is_empty(), "{odd:?}");
    }

    #[test]
    fn an_empty_host_lacks_everything_and_says_how_to_get_it() {
        let (dir, host) = host(&[]);
        let findings = host.findings(&dir.path().join("a/b"));
        for check in ["kernel", "btf", "capabilities", "bpffs", "cgroup"] {
            assert_eq!(state(&findings, check), State::Missing, "{check}");
        }
        assert!(findings.iter().all(|f| f.state == State::Ok || f.fix.is_some()));
        assert_eq!(state(&findings, "journal"), State::Ok);
    }

    #[test]
    fn old_kernels_and_foreign_pins_are_named() {
        let (dir, host) = host(&[
            ("proc/sys/kernel/osrelease", "5.15.0-91-generic\n"),
            ("sys/fs/bpf/sov/v999/map", ""),
        ]);
        let findings = host.findings(dir.path());
        assert_eq!(state(&findings, "kernel"), State::Ok);
        assert_eq!(state(&findings, "tcx"), State::Warning);
        let pins = findings.iter().find(|f| f.check == "pins").expect("pins");
        assert_eq!(pins.state, State::Warning);
        assert!(pins.detail.contains("v999"), "{}", pins.detail);
    }

    #[test]
    fn releases_parse() {
        assert_eq!(Version::parse("6.18.44-fc-v595\n"), Some(Version(6, 18)));
        assert_eq!(Version::parse("5.4-rc1"), Some(Version(5, 4)));
        assert_eq!(Version::parse("linux"), None);
        assert_eq!(Version::parse("99999999999.1"), None);
    }
}
