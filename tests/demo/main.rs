//! `sov-agent demo` as a user runs it: every expectation holds, and nothing stays behind, whatever ends it.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use sov_tests::{agent, require_root};

/// Each test looks at the whole host: one at a time.
static HOST: Mutex<()> = Mutex::new(());

/// What a demonstration could leave: namespaces, links, mounts, cgroups, its processes.
#[derive(Debug, PartialEq, Eq)]
struct Traces(BTreeSet<String>);

impl Traces {
    fn now() -> Self {
        let mut found = BTreeSet::new();
        let names = |folder: &str| -> Vec<PathBuf> {
            fs::read_dir(folder)
                .map_or_else(|_| vec![], |d| d.flatten().map(|e| e.path()).collect())
        };
        let links = names("/sys/class/net").into_iter().map(|path| path.display().to_string());
        found.extend(links.filter(|link| !link.contains("sovt")));
        let spaces = names("/run/netns").into_iter().map(|path| path.display().to_string());
        found.extend(spaces.filter(|name| !name.contains("sovt-")));
        for folder in [sov_tests::cgroup::root().ok(), Some("/tmp".into())].into_iter().flatten() {
            let all = names(&folder.display().to_string()).into_iter();
            found.extend(all.map(|p| p.display().to_string()).filter(|p| p.contains("sovdemo")));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        found.extend(mounts.lines().filter(|l| l.contains("sovdemo")).map(str::to_owned));
        for process in names("/proc") {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|&byte| byte == 0).collect();
            if words.get(1) == Some(&&b"demo"[..]) || line.ends_with(b"/policy.toml\0") {
                found.insert(format!("{} {}", process.display(), String::from_utf8_lossy(&line)));
            }
        }
        Self(found)
    }

    /// Waits until the host is as it was: a killed process's namespaces go a moment later.
    fn expect_again(&self) {
        let start = Instant::now();
        loop {
            let now = Self::now();
            let left: Vec<_> = now.0.difference(&self.0).collect();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(8), "left behind: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(agent::binary().expect("the built binary"));
    command.arg("demo").args(args).stdin(Stdio::null());
    command
}

fn complete(args: &[&str]) -> Output {
    demo(args).output().expect("the binary runs")
}

/// Starts one and waits until its agent has been built up to a point: the cgroup of a workload is there.
fn started() -> Child {
    let child = demo(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawns");
    thread::sleep(Duration::from_millis(700));
    child
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: a plain system call on a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn every_expectation_holds_and_nothing_stays() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    let before = Traces::now();
    let out = complete(&["--json"]);
    let problem = String::from_utf8_lossy(&out.stderr);
    let document: serde_json::Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}; {}\n{problem}", out.status));
    assert_eq!(out.status.code(), Some(0), "{document:#}\n{problem}");
    assert_eq!(document["ok"], true);
    assert_eq!(document["ledger_balances"], true);
    let probes = document["probes"].as_array().expect("probes");
    let of = |tag: &str, verdict: Option<&str>, reason: Option<&str>, destination: &str| {
        let found: Vec<_> = (probes.iter())
            .filter(|p| p["tag"] == tag && p["destination"] == destination)
            .collect();
        assert!(!found.is_empty(), "{tag} {destination}");
        for p in found {
            assert_eq!(p["verdict"].as_str(), verdict, "{p}");
            assert_eq!(p["reason"].as_str(), reason, "{p}");
            let arrived = p["arrived_packets"].as_u64().expect("a count");
            assert_eq!(arrived == 0, verdict == Some("block"), "{p}");
        }
    };
    for (tokyo, america) in [("54.250.0.1", "8.8.8.8"), ("2406:da14::1", "2001:4860:4860::8888")] {
        of("untagged", None, None, america);
        of("general", Some("allow"), Some("tier_match"), tokyo);
        of("general", Some("block"), Some("foreign_location"), america);
        of("sovereign", Some("block"), Some("foreign_control"), tokyo);
        of("sovereign", Some("block"), Some("foreign_location"), america);
        of("audited", Some("would_block"), Some("foreign_control"), tokyo);
    }
    for family in ["ipv4", "ipv6"] {
        let cost = &document["cost"][family];
        assert!(cost["destinations"].as_u64().is_some_and(|n| n >= 1000), "{cost}");
        assert!(cost["tagged_ns"].as_f64().is_some_and(|ns| ns > 0.0), "{cost}");
    }
    before.expect_again();
}

#[test]
fn nothing_stays_when_it_is_interrupted() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    for number in [libc::SIGINT, libc::SIGTERM] {
        let before = Traces::now();
        let mut child = started();
        assert_ne!(before, Traces::now(), "it had begun");
        signal(&child, number);
        let status = child.wait().expect("waits");
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(number), "{status}");
        before.expect_again();
    }
}

#[test]
fn nothing_stays_when_it_is_killed() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    let before = Traces::now();
    let mut child = started();
    assert_ne!(before, Traces::now(), "it had begun");
    signal(&child, libc::SIGKILL);
    child.wait().expect("waits");
    before.expect_again();
}

#[test]
fn the_next_run_removes_what_a_killed_one_left() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    let Ok(root) = sov_tests::cgroup::root() else { return };
    let before = Traces::now();
    // No process has this number: it is above the kernel's limit.
    let left = root.join("sovdemo-4194399");
    fs::create_dir_all(left.join("plain")).expect("mkdir");
    let out = complete(&[]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(!left.exists());
    before.expect_again();
}
