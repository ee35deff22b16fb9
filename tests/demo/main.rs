//! `sov-agent demo` as a user runs it: every expectation holds, and nothing stays behind, whatever ends it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use sov_tests::{agent, require_root, traffic::wait_until};

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

/// How far a demonstration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// The guard has made its cgroup folder.
    Folder,
    /// The agent runs.
    Agent,
    /// The first probe has been shown.
    Probe,
}

/// Starts one and waits until it has come to a point. Nobody reads its output after that.
fn started(point: Point) -> Child {
    let mut child = demo(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("spawns");
    if point == Point::Probe {
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first = lines.map_while(Result::ok).find(|line| line.contains(" arrived"));
        assert!(first.is_some(), "it ended before its first probe");
        return child;
    }
    let there = || match point {
        Point::Folder => sov_tests::cgroup::root()
            .is_ok_and(|root| root.join(format!("sovdemo-{}", child.id())).exists()),
        _ => Traces::now().0.iter().any(|trace| trace.contains("/policy.toml")),
    };
    assert!(wait_until(Duration::from_secs(20), there), "{point:?}");
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
    // The flow log is in it, as the agent wrote it.
    let records = document["records"].as_array().expect("records");
    for (tag, tokyo) in [("sovereign", "54.250.0.1"), ("audited", "2406:da14::1")] {
        let found = records.iter().find(|r| {
            r["class_uid"] == 4001
                && r["unmapped"]["tag"] == tag
                && r["status_code"] == "foreign_control"
                && r["dst_endpoint"]["ip"] == tokyo
        });
        assert!(found.is_some(), "{tag} {tokyo}: {records:#?}");
    }
    let packets = |r: &serde_json::Value| r["traffic"]["packets"].as_u64().unwrap_or(0);
    // The ledger's "blocked" has what would have been, too.
    let stopped = records.iter().filter(|r| r["unmapped"]["verdict"] != "allow");
    let on_record: u64 = stopped.map(packets).sum();
    let ledger = |term: &str| document["ledger"][term].as_u64().expect(term);
    assert_eq!(on_record, ledger("recorded") + ledger("aggregated"), "{:#}", document["ledger"]);
    for row in document["table"].as_array().expect("a table") {
        assert_eq!(row["observed"], serde_json::json!([row["expected"]]), "{row}");
        assert_eq!(row["failed"], 0, "{row}");
    }
    let calls = document["blocked_calls"].as_array().expect("blocked calls");
    assert!(calls.iter().any(|c| c["kind"] == "tcp" && c["error"] == "EPERM"), "{calls:#?}");
    before.expect_again();
}

/// Ctrl-C, an end by the service manager, and an end that no handler sees: early, with a half-built
/// agent, and amid traffic.
#[test]
fn nothing_stays_whatever_ends_it_whenever() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    for (point, number) in [
        (Point::Probe, libc::SIGINT),
        (Point::Agent, libc::SIGTERM),
        (Point::Folder, libc::SIGINT),
        (Point::Folder, libc::SIGKILL),
        (Point::Agent, libc::SIGKILL),
        (Point::Probe, libc::SIGKILL),
    ] {
        if point == Point::Folder && sov_tests::cgroup::root().is_err() {
            continue;
        }
        let before = Traces::now();
        let mut child = started(point);
        assert_ne!(before, Traces::now(), "it had begun");
        signal(&child, number);
        let status = child.wait().expect("waits");
        assert_eq!(status.signal(), Some(number), "{status} at {point:?}");
        before.expect_again();
    }
}

#[test]
fn without_root_it_says_so() {
    require_root!();
    let folder = tempfile::tempdir().expect("a folder");
    // Where everybody may look.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let program = folder.path().join("sov-agent");
    fs::copy(agent::binary().expect("the built binary"), &program).expect("copies");
    let out = Command::new(&program).arg("demo").uid(65534).gid(65534).output().expect("runs");
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(out.stdout.is_empty(), "{out:?}");
    let problem = String::from_utf8_lossy(&out.stderr);
    assert!(problem.starts_with("error: ") && problem.contains("run it as root"), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
}

/// The document of a run under changed circumstances, which must hold all the same.
fn complete_under(change: fn() -> std::io::Result<()>) -> serde_json::Value {
    let mut command = demo(&["--json"]);
    // SAFETY: system calls only.
    unsafe { command.pre_exec(change) };
    let out = command.output().expect("the binary runs");
    let problem = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{}\n{problem}", String::from_utf8_lossy(&out.stdout));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn a_host_without_ipv6_shows_ipv4() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    let before = Traces::now();
    // As on a kernel booted with ipv6.disable=1.
    let document = complete_under(|| refuse_sockets_of(libc::AF_INET6));
    assert_eq!(document["skipped"][0]["what"], "IPv6 probes", "{document:#}");
    let probes = document["probes"].as_array().expect("probes");
    assert!(probes.len() > 20 && probes.iter().all(|p| p["family"] == "v4"), "{document:#}");
    before.expect_again();
}

#[test]
fn a_host_without_cgroup_v2_shows_marks() {
    require_root!();
    let _one = HOST.lock().unwrap_or_else(|e| e.into_inner());
    let before = Traces::now();
    let document = complete_under(hide_cgroups);
    let what = document["skipped"][0]["what"].as_str().expect("a text");
    assert!(what.contains("cgroup"), "{document:#}");
    let probes = document["probes"].as_array().expect("probes");
    assert!(probes.len() > 20 && probes.iter().all(|p| p["tagged_by"] != "cgroup"), "{document:#}");
    before.expect_again();
}

/// A filter on this process and its children: sockets of a family do not exist.
fn refuse_sockets_of(family: i32) -> std::io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // struct seccomp_data: number at 0, first argument at 16 (its low half first, on little endian).
    let low = if cfg!(target_endian = "little") { 16 } else { 20 };
    let mut filter = [
        op(LOAD, 0, 0, 0),
        op(EQUAL, 0, 3, libc::SYS_socket as u32),
        op(LOAD, 0, 0, low),
        op(EQUAL, 0, 1, family as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions live through the call.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A mount namespace without a cgroup v2 hierarchy. One of version 1 hides nothing that we look at.
fn hide_cgroups() -> std::io::Result<()> {
    let check =
        |result: i32| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: static strings; a mount namespace of this process alone.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(none, root, std::ptr::null(), private, std::ptr::null()))?;
        for path in [c"/sys/fs/cgroup/unified", c"/sys/fs/cgroup"] {
            while libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0 {}
        }
    }
    Ok(())
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
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{text}");
    assert!(!left.exists());
    // What it shows is for a terminal.
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
    }
    for part in ["BLOCK  foreign_control", "Flow log", "Expected and observed", "EPERM", " ns"] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    before.expect_again();
}
