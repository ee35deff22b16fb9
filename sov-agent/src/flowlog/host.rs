//! Facts about this host for the records: names of interfaces, cgroups, users, executables, the clock.
//!
//! Everything is cached and bounded; a fact that is gone is absent, never an error. Reads /proc, /sys and
//! /etc/passwd; asks no name service, because a record must not wait for the network that it is about.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::{
    enrich::{Clock, Facts},
    record::Host,
};

/// How long after a miss the whole source is not read again: a flood of misses must stay cheap.
const RETRY: Duration = Duration::from_millis(200);
/// An interface may be renamed.
const INTERFACE_AGE: Duration = Duration::from_secs(10);
/// More cgroups than any node has; past it, the cache starts anew.
const MOST: usize = 65_536;

impl Host {
    /// This host's id and name.
    pub fn current() -> Self {
        let id = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"]
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .map(|id| id.trim().replace('-', ""))
            .find(|id| !id.is_empty())
            .unwrap_or_default();
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { id, name }
    }
}

impl Clock {
    /// Reads both clocks.
    pub fn sample() -> Self {
        let ns = |id| {
            let t = clock_gettime(id);
            t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
        };
        Self { offset: ns(ClockId::Realtime).saturating_sub(ns(ClockId::Boottime)) }
    }
}

/// Where the cgroup v2 hierarchy is mounted.
pub fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        // Spaces in a mount point are escaped as \040.
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4))?.map(PathBuf::from)
    })
}

/// Number of a local group.
pub fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Whether a user is listed as a member of a local group; the primary group does not show here.
pub fn is_member(uid: u32, group: &str) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let Some(user) = users(&read("/etc/passwd")).remove(&uid) else { return false };
    read("/etc/group").lines().any(|line| {
        let mut fields = line.split(':');
        fields.next() == Some(group)
            && fields.nth(2).is_some_and(|members| members.split(',').any(|m| m == user))
    })
}

/// Facts asked of the running kernel.
pub struct LiveFacts {
    cgroup_root: Option<PathBuf>,
    cgroups: HashMap<u64, String>,
    cgroups_read: Option<Instant>,
    interfaces: HashMap<u32, (Instant, Option<String>)>,
    users: HashMap<u32, String>,
    users_read: Option<Instant>,
}

impl LiveFacts {
    /// `cgroup_root`: mount point of the v2 hierarchy, see [`cgroup_root`].
    pub fn new(cgroup_root: Option<PathBuf>) -> Self {
        Self {
            cgroup_root,
            cgroups: HashMap::new(),
            cgroups_read: None,
            interfaces: HashMap::new(),
            users: HashMap::new(),
            users_read: None,
        }
    }
}

impl Facts for LiveFacts {
    fn interface(&mut self, index: u32) -> Option<String> {
        let now = Instant::now();
        if let Some((read, name)) = self.interfaces.get(&index)
            && now.duration_since(*read) < INTERFACE_AGE
        {
            return name.clone();
        }
        if self.interfaces.len() >= MOST {
            self.interfaces.clear();
        }
        let name = interface_name(index);
        self.interfaces.insert(index, (now, name.clone()));
        name
    }

    fn cgroup(&mut self, id: u64) -> Option<String> {
        if let Some(path) = self.cgroups.get(&id) {
            return Some(path.clone());
        }
        if due(&mut self.cgroups_read) {
            // Paths of cgroups that are gone stay: late records still name them.
            if self.cgroups.len() >= MOST {
                self.cgroups.clear();
            }
            let root = self.cgroup_root.clone()?;
            walk(&root, &root, &mut self.cgroups);
        }
        self.cgroups.get(&id).cloned()
    }

    fn exe(&mut self, pid: u32, comm: &str) -> Option<String> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let exe = fs::read_link(proc.join("exe")).ok()?;
        // The pid may belong to somebody else by now.
        let now = fs::read(proc.join("comm")).ok()?;
        let now = String::from_utf8_lossy(now.strip_suffix(b"\n").unwrap_or(&now)).into_owned();
        (now == comm).then(|| exe.to_string_lossy().into_owned())
    }

    fn user(&mut self, uid: u32) -> Option<String> {
        if !self.users.contains_key(&uid) && due(&mut self.users_read) {
            let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
            self.users = users(&passwd);
        }
        self.users.get(&uid).cloned()
    }
}

/// Whether a source may be read again; remembers that it now is.
fn due(read: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    if read.is_some_and(|at| now.duration_since(at) < RETRY) {
        return false;
    }
    *read = Some(now);
    true
}

/// Name of an interface in this network namespace.
pub fn interface_name(index: u32) -> Option<String> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)
            .ok()?;
    rustix::net::netdevice::index_to_name(&socket, index).ok()
}

/// A cgroup's id is the inode number of its folder.
fn walk(root: &Path, folder: &Path, found: &mut HashMap<u64, String>) {
    let Ok(meta) = fs::metadata(folder) else { return };
    let below = folder.strip_prefix(root).unwrap_or(folder);
    found.insert(meta.ino(), format!("/{}", below.to_string_lossy()));
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if found.len() >= MOST {
            return;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &entry.path(), found);
        }
    }
}

fn users(passwd: &str) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1).and_then(|u| u.parse().ok()))
        {
            // The first entry of a uid is its name.
            users.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    users
}

/// systemd unit, container id and pod uid, as far as a cgroup path tells them.
pub fn identify(path: &str) -> (Option<String>, Option<String>, Option<String>) {
    let (mut unit, mut container, mut pod) = (None, None, None);
    for part in path.split('/') {
        let (stem, is_scope, is_service) = match part.rsplit_once('.') {
            Some((stem, "scope")) => (stem, true, false),
            Some((stem, "service")) => (stem, false, true),
            Some((stem, "slice")) => (stem, false, false),
            _ => (part, false, false),
        };
        if is_scope || is_service {
            unit = Some(part.to_owned());
        }
        // docker-<id>.scope, cri-containerd-<id>.scope, libpod-<id>.scope, or the id alone.
        let id = stem.rsplit('-').next().unwrap_or(stem);
        if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            container = Some(id.to_owned());
        }
        // kubepods-burstable-pod<uid with _>.slice, or pod<uid>.
        let uid = stem.rsplit("pod").next().unwrap_or("").replace('_', "-");
        if stem.contains("pod") && is_uuid(&uid) {
            pod = Some(uid);
        }
    }
    (unit, container, pod)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_paths_name_units_containers_and_pods() {
        let id = "0123456789abcdef".repeat(4);
        let some = |text: &str| Some(text.to_owned());
        let cases = [
            ("/".into(), (None, None, None)),
            ("/system.slice/sshd.service".into(), (some("sshd.service"), None, None)),
            (
                format!("/system.slice/docker-{id}.scope"),
                (Some(format!("docker-{id}.scope")), some(&id), None),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b1c2d3e_4f50_6172_8394_a5b6c7d8e9f0.slice/cri-containerd-{id}.scope"
                ),
                (
                    Some(format!("cri-containerd-{id}.scope")),
                    some(&id),
                    some("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0"),
                ),
            ),
            (
                format!("/kubepods/besteffort/pod0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0/{id}"),
                (None, some(&id), some("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0")),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service".into(),
                (some("app-x.service"), None, None),
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(identify(&path), expected, "{path}");
        }
    }

    #[test]
    fn the_first_name_of_a_uid_counts_and_damaged_lines_do_not() {
        let users = users("root:x:0:0::/:/bin/sh\ntoor:x:0:0\nbad\nworse:x:-1\na:x:7\n");
        assert_eq!(users.len(), 2);
        assert_eq!((users[&0].as_str(), users[&7].as_str()), ("root", "a"));
    }

    #[test]
    fn cgroups_are_found_by_inode_also_when_made_later() {
        let root = tempfile::tempdir().expect("temp dir");
        let mut facts = LiveFacts::new(Some(root.path().to_owned()));
        let make = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).expect("mkdir");
            fs::metadata(path).expect("stat").ino()
        };
        let first = make("a.slice/b.service");
        assert_eq!(facts.cgroup(first).as_deref(), Some("/a.slice/b.service"));
        let second = make("c");
        assert_eq!(facts.cgroup(second), None, "not read again at once");
        facts.cgroups_read = None;
        assert_eq!(facts.cgroup(second).as_deref(), Some("/c"));
    }

    #[test]
    fn this_process_is_known() {
        let mut facts = LiveFacts::new(None);
        let pid = std::process::id();
        let comm = fs::read_to_string("/proc/self/comm").expect("comm");
        assert!(facts.exe(pid, comm.trim_end()).is_some());
        assert_eq!(facts.exe(pid, "somebody-else"), None);
        assert_eq!(facts.interface(1).as_deref(), Some("lo"));
        assert!(Clock::sample().unix(0) > 1_600_000_000_000_000_000);
    }
}
