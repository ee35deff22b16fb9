//! Enforcement without gaps: the agent may die, come back, and bring another policy, while packets
//! fly. Not one forbidden packet arrives, not one allowed packet is missing.

use std::{
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sov_tests::{
    agent::{Agent, Host},
    lab::{Lab, OTHER4, OTHER6, UPLINK},
    packet::udp_frame,
    require_root,
    sink::{Counter, Filter, Recorder},
    traffic::{Action, FrameMode, Outcome, Running, Workload},
};

use crate::{WAIT, ip, place, policy, tag, turn};

/// Allowed and forbidden packets of both families, interleaved, at full speed; exact counts of what
/// arrives.
struct Stream {
    running: Running,
    counters: [Counter; 4],
}

/// Domestic v4, abroad v4, domestic v6, abroad v6: every second one is forbidden.
fn destinations() -> [&'static str; 4] {
    [place::DOMESTIC[0], place::ABROAD[0], place::DOMESTIC[1], place::ABROAD[1]]
}

impl Stream {
    /// Frames with the tag's mark, past every socket hook: the packet hook alone decides.
    fn start(lab: &Lab, packets: u64) -> Self {
        let counters = destinations().map(|to| {
            let length = if ip(to).is_ipv4() { 32 } else { 128 };
            Counter::new(&lab.internet, Filter::Destination(ip(to), length)).unwrap()
        });
        let frames = destinations()
            .map(|to| {
                let from = if ip(to).is_ipv4() { OTHER4.into() } else { OTHER6.into() };
                udp_frame(from, ip(to), 9000, b"continuity")
            })
            .to_vec();
        let action = Action::FloodFrames { via: UPLINK.into(), frames, packets };
        let running = Workload::new(&lab.work).mark(0x30).spawn(action).unwrap();
        Self { running, counters }
    }

    /// Ends the stream and holds it against the rule.
    fn verify(self, what: &str, least: u64) {
        let sent = self.running.stop().unwrap();
        verify(&self.counters, &sent, what, least);
    }

    /// Lets the stream run to its end.
    fn verify_whole(self, what: &str, least: u64) {
        let sent = self.running.finish().unwrap();
        verify(&self.counters, &sent, what, least);
    }
}

fn verify(counters: &[Counter; 4], sent: &Outcome, what: &str, least: u64) {
    let offered = |i: usize| sent.sent_each[i] + sent.failed_each[i];
    // The link has no queue worth waiting for; the first counter waits for quiet all the same.
    counters[0].settle(u64::MAX).unwrap();
    let arrived: Vec<u64> = counters.iter().map(|c| c.count().unwrap()).collect();
    eprintln!(
        "{what}: forbidden {} offered, {} arrived; allowed {} offered, {} arrived",
        offered(1) + offered(3),
        arrived[1] + arrived[3],
        offered(0) + offered(2),
        arrived[0] + arrived[2],
    );
    for i in [1, 3] {
        assert_eq!(arrived[i], 0, "{what}: leaked to {} of {}", destinations()[i], offered(i));
    }
    for i in [0, 2] {
        assert_eq!(sent.failed_each[i], 0, "{what}: refused to {}", destinations()[i]);
        assert_eq!(arrived[i], offered(i), "{what}: lost to {}", destinations()[i]);
    }
    let total = sent.sent + sent.failed;
    assert!(total >= least, "{what}: only {total} packets offered");
}

fn marked(extra: &str) -> String {
    policy("enforce", &(tag("by-mark", 1, "mark = \"0x30/0xf0\"") + extra))
}

#[test]
fn kill_minus_nine_and_take_over_leak_and_lose_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let mut agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    let stream = Stream::start(&lab, u64::MAX);
    for round in 0..6 {
        thread::sleep(Duration::from_millis(150 + 37 * round));
        agent.kill().unwrap();
        // Nobody is there but the kernel.
        thread::sleep(Duration::from_millis(150));
        agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    }
    thread::sleep(Duration::from_millis(150));
    stream.verify("kill -9 and take-over, six times", 200_000);
    // In the middle of starting, too.
    let stream = Stream::start(&lab, u64::MAX);
    agent.kill().unwrap();
    let path = host.write("policy.toml", &marked("")).unwrap();
    let args = ["--policy", path.to_str().unwrap(), "--interface", UPLINK];
    for delay in [5, 20, 40, 60, 80, 100, 150, 200, 300] {
        let agent = Agent::spawn(&host, &lab.work, &args).unwrap();
        thread::sleep(Duration::from_millis(delay));
        agent.kill().unwrap();
    }
    let _agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    stream.verify("kill -9 in the middle of starting", 100_000);
}

/// Other tags, other tiers, other classes; the same answers for the four destinations.
fn other_policies() -> [String; 2] {
    let deny = "control = [\"JP\"]\ndeny = [ { prefix = \"9.0.0.0/8\" } ]";
    [
        marked(&tag("more", 2, "dscp = 12")),
        marked("").replace("10.0.0.0/8", "172.16.0.0/12").replace("control = [\"JP\"]", deny),
    ]
}

/// The running agent reads another policy, again and again, within one million packets.
#[test]
fn policy_swaps_within_a_million_packets_are_exact() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    let stream = Stream::start(&lab, 1_000_000);
    for text in other_policies().iter().cycle().take(8) {
        host.write("policy.toml", text).unwrap();
        agent.reload(&host).unwrap();
    }
    stream.verify_whole("eight policies in a million packets", 1_000_000);
}

/// A clean stop and a start with another policy.
#[test]
fn a_restart_with_another_policy_is_exact() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let mut agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    let stream = Stream::start(&lab, u64::MAX);
    for text in other_policies().iter().cycle().take(4) {
        thread::sleep(Duration::from_millis(100));
        agent.stop().unwrap();
        agent = Agent::with_policy(&host, &lab.work, text).unwrap();
    }
    stream.verify("four restarts with another policy", 100_000);
}

/// `until` is the kernel's business: a dead agent leaves no exception open.
#[test]
fn an_exception_ends_on_time_without_the_agent() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let end = SystemTime::now() + Duration::from_secs(4);
    let until = time_text(end);
    let rules: Vec<String> = place::ABROAD
        .iter()
        .map(|to| {
            format!(
                "{{ prefix = \"{to}\", until = \"{until}\", owner = \"netops\", ticket = \"CHG-1\" }}"
            )
        })
        .collect();
    let allow = format!("control = [\"JP\"]\nallow = [ {} ]", rules.join(", "));
    let text = marked("").replace("control = [\"JP\"]", &allow);
    let agent = Agent::with_policy(&host, &lab.work, &text).unwrap();
    agent.kill().unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let to = place::ABROAD.map(ip);
    let tagged = Workload::new(&lab.work).mark(0x30);
    assert!(SystemTime::now() < end, "the machine is too slow for this test");
    assert!(tagged.udp(&to).unwrap().ok, "before the end");
    assert_eq!(seen.by_destination(WAIT).len(), 2, "before the end");
    thread::sleep(end.duration_since(SystemTime::now()).unwrap() + Duration::from_millis(1100));
    assert_eq!(tagged.udp(&to).unwrap().errno, Some(libc::EPERM), "after the end");
    let frames = place::ABROAD
        .map(|to| {
            let from = if ip(to).is_ipv4() { OTHER4.into() } else { OTHER6.into() };
            udp_frame(from, ip(to), 9000, b"late")
        })
        .to_vec();
    tagged.frames(UPLINK, frames, FrameMode::Normal).unwrap();
    assert!(seen.by_destination(WAIT).is_empty(), "after the end");
}

/// RFC 3339 in UTC, by the system's own date(1).
fn time_text(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let out = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%S+00:00"])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The first start is the one moment without a predecessor: from the ready signal on it holds.
#[test]
fn from_ready_on_nothing_leaks() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let _agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    let stream = Stream::start(&lab, u64::MAX);
    thread::sleep(Duration::from_millis(200));
    stream.verify("from ready on", 5_000);
}

/// A policy that does not compile changes nothing.
#[test]
fn a_broken_policy_changes_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    let stream = Stream::start(&lab, u64::MAX);
    agent.kill().unwrap();
    let broken = marked("").replace("location = [\"JP\"]", "location = [\"Japan\"]");
    let failed = Agent::with_policy(&host, &lab.work, &broken);
    let message = format!("{:#}", failed.err().expect("a broken policy does not start"));
    assert!(message.contains("policy.toml:"), "{message}");
    thread::sleep(Duration::from_millis(100));
    stream.verify("a broken policy", 5_000);
}

/// An upgrade: what is pinned was pinned by an agent whose maps have another layout.
#[test]
fn an_agent_of_another_version_is_taken_over_without_a_gap() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    Agent::with_policy(&host, &lab.work, &marked("")).unwrap().stop().unwrap();
    let links = || std::fs::read_dir(host.pin("links")).unwrap().count();
    let before = links();
    let older = host.pin_dir().join("v0");
    std::fs::rename(host.pin(""), &older).unwrap();
    // A link that no agent of today has a use for.
    std::fs::rename(older.join("links/sendmsg6"), older.join("links/bygone")).unwrap();
    let stream = Stream::start(&lab, u64::MAX);
    thread::sleep(Duration::from_millis(100));
    let agent = Agent::with_policy(&host, &lab.work, &marked("")).unwrap();
    thread::sleep(Duration::from_millis(200));
    stream.verify("an upgrade", 100_000);
    assert!(!older.exists(), "the old version's pins are gone");
    assert_eq!(links(), before);
    let status = sov_tests::agent::control_get(&host.socket(), "/v1/status").unwrap();
    assert_eq!(status["policy"]["generation"], 1, "the maps are new: {status:#}");
    agent.stop().unwrap();
    let gone = host.cli(&lab.work, &["detach"]).unwrap();
    assert!(gone.status.success(), "{gone:?}");
    let seen = Recorder::new(&lab.internet).unwrap();
    assert!(Workload::new(&lab.work).mark(0x30).udp(&place::ABROAD.map(ip)).unwrap().ok);
    assert_eq!(seen.by_destination(WAIT).len(), 2, "nothing of either version is left");
}

/// An image that is larger than the slot: new maps, new programs, the same links.
#[test]
fn a_slot_that_grows_under_traffic_leaks_and_loses_nothing() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let path = host.write("policy.toml", &marked("")).unwrap();
    let args = ["--policy", path.to_str().unwrap(), "--interface", UPLINK, "-v"];
    let agent = Agent::start(&host, &lab.work, &args).unwrap();
    let stream = Stream::start(&lab, u64::MAX);
    // Scattered over 11.0.0.0/8 without a pattern; the places of the stream are elsewhere.
    let mut rng = sov_tests::rng::Rng::new(7);
    let many: std::collections::BTreeSet<u32> =
        (0..150_000).map(|_| 0x0b00_0000 | rng.u32() >> 8).collect();
    let many: Vec<_> =
        many.into_iter().map(|a| format!("\"{}\"", std::net::Ipv4Addr::from(a))).collect();
    let small = "prefixes = [\"10.0.0.0/8\"";
    let text = marked("");
    assert!(text.contains(small));
    let large = text.replace(small, &format!("{small}, {}", many.join(", ")));
    host.write("policy.toml", &large).unwrap();
    agent.reload(&host).unwrap();
    assert!(agent.log().contains("the image slot has grown"), "{}", agent.log());
    assert!(!host.pin("maps/SOV_IMAGE_NEW").exists());
    thread::sleep(Duration::from_millis(100));
    // Killed and back: the large slot is taken over.
    agent.kill().unwrap();
    let agent = Agent::start(&host, &lab.work, &args).unwrap();
    thread::sleep(Duration::from_millis(100));
    stream.verify("growth of the slot", 100_000);
    agent.stop().unwrap();
}
