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
