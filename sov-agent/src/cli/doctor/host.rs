//! What the file tree of a host shows: /proc, /sys, mounts, folders.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sov_common::abi::ABI_VERSION;

use super::{
    Finding,
    kernel::{self, Version},
};
use crate::agent::Paths;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Where `run` mounts a bpf file system by itself.
const BPFFS: &str = "/sys/fs/bpf";

/// The file tree that is looked at; tests bring their own.
pub(super) struct Host {
    root: PathBuf,
    paths: Paths,
}

impl Host {
    pub(super) fn new(root: impl Into<PathBuf>, paths: Paths) -> Self {
        Self { root: root.into(), paths }
    }

    pub(super) fn findings(&self, journal: &Path) -> Vec<Finding> {
        let kernel = self.kernel();
        let mut findings = vec![
            kernel::release(kernel),
            kernel::tcx(kernel),
            self.btf(),
            self.capabilities(),
            self.bpffs(),
            self.cgroup(),
            kernel::memlock(kernel),
            writable("journal", journal),
            writable("control", &self.paths.run),
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
        const FIX: &str =
            "run as root, or give the unit AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN";
        let effective = match self.effective() {
            Ok(effective) => effective,
            Err(e) => {
                return Finding::missing("capabilities", format!("/proc/self/status: {e}"), FIX);
            }
        };
        // Since 5.8 CAP_SYS_ADMIN stands for the first two. Without CAP_PERFMON the verifier refuses
        // the programs' pointer arithmetic.
        let absent: Vec<_> = [
            ("CAP_BPF", CAP_BPF, true),
            ("CAP_PERFMON", CAP_PERFMON, true),
            ("CAP_NET_ADMIN", CAP_NET_ADMIN, false),
        ]
        .into_iter()
        .filter(|&(_, cap, by_admin)| {
            !(has(effective, cap) || by_admin && has(effective, CAP_SYS_ADMIN))
        })
        .map(|(name, ..)| name)
        .collect();
        if absent.is_empty() {
            let detail = "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are effective";
            Finding::ok("capabilities", detail)
        } else {
            let detail = format!("not effective: {}", absent.join(", "));
            Finding::missing("capabilities", detail, FIX)
        }
    }

    fn effective(&self) -> io::Result<u64> {
        let status = self.read("proc/self/status")?;
        let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Ok(hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether the pins have, or will have, a bpf file system to stand on.
    fn bpffs(&self) -> Finding {
        let pins = &self.paths.pins;
        let mounts = self.mounts();
        // The last mount of the longest path is the one that is seen.
        let below = mounts.iter().filter(|mount| pins.starts_with(&mount.point));
        let on = below.max_by_key(|mount| mount.point.len());
        if let Some(mount) = on.filter(|mount| mount.kind == "bpf") {
            return Finding::ok("bpffs", format!("mounted at {}", mount.point));
        }
        let standard = pins.starts_with(BPFFS);
        if standard && self.effective().is_ok_and(|effective| has(effective, CAP_SYS_ADMIN)) {
            return Finding::ok("bpffs", format!("not mounted; `run` mounts it at {BPFFS} itself"));
        }
        let (detail, at) = if standard {
            let detail = format!(
                "no bpf file system at {BPFFS}, and `run` may not mount it: that takes CAP_SYS_ADMIN"
            );
            (detail, BPFFS.to_owned())
        } else {
            let at = pins.parent().unwrap_or(pins).display().to_string();
            (format!("{} (SOV_PIN_DIR) is not on a bpf file system", pins.display()), at)
        };
        Finding::missing("bpffs", detail, format!("mount -t bpf bpf {at}"))
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
        let pins = &self.paths.pins;
        let Ok(entries) = fs::read_dir(self.root.join(pins.strip_prefix("/").unwrap_or(pins)))
        else {
            return vec![Finding::ok("pins", "none: no agent has left enforcement behind")];
        };
        let mut versions: Vec<u32> = (entries.flatten())
            .filter_map(|e| e.file_name().to_str()?.strip_prefix('v')?.parse().ok())
            .collect();
        versions.sort_unstable();
        (versions.into_iter())
            .map(|version| {
                let shown = pins.join(format!("v{version}"));
                let shown = shown.display();
                if version == ABI_VERSION {
                    Finding::ok("pins", format!("{shown} is in place"))
                } else {
                    Finding::warning(
                        "pins",
                        format!("{shown} belongs to another version of the agent and still enforces its policy"),
                        format!("once this agent enforces: rm -r {shown}"),
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

/// Whether a set of capabilities has one.
fn has(set: u64, capability: u32) -> bool {
    set & (1 << capability) != 0
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
    use super::{super::State, *};

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().expect("temp dir");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        let paths = Paths {
            state: "/var/lib/sov".into(),
            run: dir.path().join("run"),
            pins: "/sys/fs/bpf/sov".into(),
            cgroups: None,
        };
        let host = Host::new(dir.path(), paths);
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
            ("proc/self/status", "Name:\tx\nCapEff:\t000000c000001000\n"),
            (
                "proc/self/mountinfo",
                "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                 42 31 0:39 / /sys/fs/bpf rw,relatime shared:7 - bpf bpf rw\n",
            ),
        ]);
        let findings = host.findings(dir.path());
        let odd: Vec<_> = findings.iter().filter(|f| f.state != State::Ok).collect();
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
    fn capabilities_are_those_that_loading_takes() {
        let with = |set: &str| {
            let (_dir, host) = host(&[("proc/self/status", &format!("CapEff:\t{set}\n"))]);
            host.capabilities()
        };
        // BPF 39, PERFMON 38, SYS_ADMIN 21, NET_ADMIN 12.
        assert_eq!(with("000000c000001000").state, State::Ok);
        assert_eq!(with("0000000000201000").state, State::Ok);
        assert_eq!(with("0000008000001000").detail, "not effective: CAP_PERFMON");
        assert_eq!(with("0000004000001000").detail, "not effective: CAP_BPF");
        assert_eq!(with("000000c000000000").detail, "not effective: CAP_NET_ADMIN");
        assert_eq!(with("0000000000200000").detail, "not effective: CAP_NET_ADMIN");
    }

    #[test]
    fn an_unmounted_bpffs_is_no_fault_where_run_mounts_it() {
        let admin = ("proc/self/status", "CapEff:\t000000c000201000\n");
        let (_dir, mut host) = host(&[admin]);
        assert_eq!(host.bpffs().state, State::Ok);
        assert!(host.bpffs().detail.contains("mounts it"), "{:?}", host.bpffs());
        host.paths.pins = "/mnt/bpf/sov".into();
        let finding = host.bpffs();
        assert_eq!(finding.state, State::Missing, "only the standard place is mounted by `run`");
        assert_eq!(finding.fix.as_deref(), Some("mount -t bpf bpf /mnt/bpf"));
    }

    #[test]
    fn moved_folders_are_those_that_are_looked_at() {
        let mount = "42 31 0:39 / /mnt/bpf rw - bpf bpf rw\n";
        let files = [("proc/self/mountinfo", mount), ("mnt/bpf/sov/v998/links/x", "")];
        let (dir, mut host) = host(&files);
        host.paths.pins = "/mnt/bpf/sov".into();
        host.paths.run = dir.path().join("elsewhere/run");
        let findings = host.findings(dir.path());
        assert_eq!(state(&findings, "bpffs"), State::Ok);
        assert_eq!(state(&findings, "pins"), State::Warning);
        let control = findings.iter().find(|f| f.check == "control").expect("control");
        assert!(control.detail.contains("elsewhere/run"), "{}", control.detail);
    }
}
