//! Starts that do not go as planned: after a boot with a policy that no longer compiles, after a rename,
//! with something in the way of a link.

use std::{fs, thread, time::Duration};

use sov_tests::{
    agent::{Agent, Host, control_get},
    cgroup::Cgroup,
    lab::{Lab, UPLINK},
    require_root,
    sink::Recorder,
    traffic::Workload,
};

use crate::{WAIT, ip, place, policy, tag, turn};

fn by_mark() -> String {
    policy("enforce", &tag("by-mark", 1, "mark = \"0x30/0xf0\""))
}

/// A boot takes every pin, and with it links and maps.
fn boot(host: &Host) {
    fs::remove_dir_all(host.pin_dir()).unwrap();
    // The kernel frees links a moment later.
    thread::sleep(Duration::from_millis(200));
}

#[test]
fn after_a_boot_a_broken_policy_leaves_the_last_image_in_force() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let group = Cgroup::new().unwrap();
    let select = format!("cgroup = \"{}\"", group.name);
    let good = policy("enforce", &tag("by-cgroup", 1, &select));
    let broken = good.replace("location = [\"JP\"]", "location = [\"Japan\"]");
    let stale = good.replace("[defaults]", "[defaults]\nmax_data_age = \"1h\"");
    assert_ne!(stale, good);
    let path = host.write("policy.toml", &broken).unwrap();
    let args = ["--policy", path.to_str().unwrap(), "--interface", UPLINK];
    // On a first run a mistake is an error, and nothing is attached.
    let first = Agent::start(&host, &lab.work, &args).err().expect("nothing to fall back on");
    assert!(format!("{first:#}").contains("exit status: 2"), "{first:#}");
    assert_eq!(fs::read_dir(host.pin("links")).into_iter().flatten().count(), 0);
    host.write("policy.toml", &good).unwrap();
    Agent::start(&host, &lab.work, &args).unwrap().stop().unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    for (what, text) in [("broken", Some(&broken)), ("stale", Some(&stale)), ("missing", None)] {
        boot(&host);
        // Another boot, another number for the cgroup.
        fs::remove_dir(group.path()).unwrap();
        fs::create_dir(group.path()).unwrap();
        match text {
            Some(text) => drop(host.write("policy.toml", text).unwrap()),
            None => fs::remove_file(&path).unwrap(),
        }
        let agent = Agent::start(&host, &lab.work, &args).unwrap();
        seen.take(WAIT);
        let tagged = Workload::new(&lab.work).cgroup(&group);
        let refused = tagged.udp(&place::ABROAD.map(ip)).unwrap();
        assert_eq!(refused.errno, Some(libc::EPERM), "{what}");
        assert!(tagged.udp(&place::DOMESTIC.map(ip)).unwrap().ok, "{what}");
        let arrived = seen.by_destination(WAIT);
        assert!(
            place::ABROAD.iter().all(|to| !arrived.contains_key(&ip(to))),
            "{what} {arrived:?}"
        );
        assert!(place::DOMESTIC.iter().all(|to| arrived.contains_key(&ip(to))), "{what}");
        let status = control_get(&host.socket(), "/v1/status").unwrap();
        assert!(status["policy"]["restored"].is_string(), "{what}: {status:#}");
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("RESTORED"), "{what}: {warnings}");
        assert!(agent.log().contains("RESTORED"), "{what}: {}", agent.log());
        // Repaired and read again: all is well.
        host.write("policy.toml", &good.replace("e2e", "repaired")).unwrap();
        agent.reload(&host).unwrap();
        let status = control_get(&host.socket(), "/v1/status").unwrap();
        assert!(status["policy"]["restored"].is_null(), "{what}: {status:#}");
        assert_eq!(status["policy"]["name"], "repaired", "{what}");
        agent.stop().unwrap();
    }
    // An image that was tampered with is none.
    boot(&host);
    let image = host.state_dir().join("live.image");
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).unwrap();
    host.write("policy.toml", &broken).unwrap();
    let refused = Agent::start(&host, &lab.work, &args).err().expect("a damaged image");
    assert!(format!("{refused:#}").contains("does not match"), "{refused:#}");
}

#[test]
fn a_renamed_uplink_is_taken_over() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let agent = Agent::with_policy(&host, &lab.work, &by_mark()).unwrap();
    let index = lab.work.ifindex(UPLINK).unwrap();
    let seen = Recorder::new(&lab.internet).unwrap();
    let send = |via: &str| {
        let frames = place::ABROAD
            .map(|to| {
                let from = sov_tests::lab::source_for(ip(to));
                sov_tests::packet::udp_frame(from, ip(to), 9000, b"renamed")
            })
            .to_vec();
        let mode = sov_tests::traffic::FrameMode::Normal;
        let _ = Workload::new(&lab.work).mark(0x30).frames(via, frames, mode);
        assert!(seen.by_destination(WAIT).is_empty(), "leaked over {via}");
    };
    send(UPLINK);
    lab.work.ip(&format!("link set {UPLINK} name wan0")).unwrap();
    send("wan0");
    thread::sleep(Duration::from_millis(700));
    send("wan0");
    let status = control_get(&host.socket(), "/v1/status").unwrap();
    assert_eq!(status["interfaces"][0]["name"], "wan0", "{status:#}");
    agent.kill().unwrap();
    send("wan0");
    // As an earlier version pinned it.
    fs::rename(
        host.pin(&format!("links/tc_egress-{index}")),
        host.pin(&format!("links/tc_egress-{index}-{UPLINK}")),
    )
    .unwrap();
    let path = host.write("policy.toml", &by_mark()).unwrap();
    let path = path.to_str().unwrap();
    let args = ["--policy", path, "--interface", "wan0", "--detach"];
    let agent = Agent::start(&host, &lab.work, &args).unwrap();
    send("wan0");
    let links: Vec<_> = fs::read_dir(host.pin("links"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("tc_"))
        .collect();
    assert_eq!(links, [format!("tc_egress-{index}")]);
    let (status, log) = agent.stop().unwrap();
    assert!(status.success(), "{log}");
    assert!(!host.pin("links").exists(), "all links are gone");
}

/// Something is in the way of a pin: the message says what is in force.
#[test]
fn a_failed_attach_says_what_is_in_force() {
    require_root!();
    let _turn = turn();
    let lab = Lab::new().unwrap();
    let host = Host::new().unwrap();
    let index = lab.work.ifindex(UPLINK).unwrap();
    fs::create_dir_all(host.pin(&format!("links/tc_egress-{index}"))).unwrap();
    let failed = Agent::with_policy(&host, &lab.work, &by_mark()).err().expect("it cannot attach");
    let message = format!("{failed:#}");
    assert!(message.contains("exit status: 2"), "{message}");
    assert!(message.contains("generation 1 of e2e is live all the same"), "{message}");
    assert!(!message.contains("nothing was changed"), "{message}");
    // And it is true: the socket hooks refuse.
    let refused = Workload::new(&lab.work).mark(0x30).udp(&place::ABROAD.map(ip)).unwrap();
    assert_eq!(refused.errno, Some(libc::EPERM), "{message}");
    let detached = host.cli(&lab.work, &["detach"]).unwrap();
    assert!(detached.status.success());
    assert!(Workload::new(&lab.work).mark(0x30).udp(&place::ABROAD.map(ip)).unwrap().ok);
}

#[test]
fn an_agent_of_another_namespace_takes_nothing_over() {
    require_root!();
    let _turn = turn();
    let (lab, other) = (Lab::new().unwrap(), Lab::new().unwrap());
    let host = Host::new().unwrap();
    Agent::with_policy(&host, &lab.work, &by_mark()).unwrap().stop().unwrap();
    let refused = Agent::with_policy(&host, &other.work, &by_mark()).err().expect("refused");
    assert!(format!("{refused:#}").contains("another network namespace"), "{refused:#}");
    // The first one's traffic is judged as before, its agent comes back.
    let seen = Recorder::new(&lab.internet).unwrap();
    let workload = Workload::new(&lab.work).mark(0x30);
    assert!(!workload.udp(&place::ABROAD.map(ip)).unwrap().ok);
    assert!(seen.by_destination(WAIT).is_empty());
    Agent::with_policy(&host, &lab.work, &by_mark()).unwrap().stop().unwrap();
    assert!(host.cli(&other.work, &["detach"]).unwrap().status.success());
    // Nothing is pinned now: the folder is free for whoever comes.
    Agent::with_policy(&host, &other.work, &by_mark()).unwrap().stop().unwrap();
}
