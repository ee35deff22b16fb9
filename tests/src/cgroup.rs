//! Test cgroups under the cgroup v2 mount, wherever the host has it; removed when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Root of the unified hierarchy: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid hosts.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .context("no cgroup2 mount; mount one with `mount -t cgroup2 none /sys/fs/cgroup`")
}

pub struct Cgroup {
    path: PathBuf,
    /// Path below the cgroup root, as policies write it: `/sovt-12-0.slice`.
    pub name: String,
}

impl Cgroup {
    pub fn new() -> Result<Self> {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::at(&format!("/sovt-{}-{n}.slice", std::process::id()))
    }

    /// A child of this cgroup; drop it first.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::at(&format!("{}/{name}", self.name))
    }

    fn at(name: &str) -> Result<Self> {
        let path = root()?.join(name.trim_start_matches('/'));
        fs::create_dir(&path).with_context(|| format!("create cgroup {}", path.display()))?;
        Ok(Self { path, name: name.to_owned() })
    }

    /// The file that a process writes `0` to in order to join.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A member that has just exited keeps the folder busy for a moment.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("cgroup {} is still busy and stays", self.path.display());
    }
}
