//! Numbers become names, addresses get attributes, nothing is guessed.

use std::net::Ipv4Addr;

use super::*;

struct Fixed;

impl Facts for Fixed {
    fn interface(&mut self, index: u32) -> Option<String> {
        (index == 2).then(|| "eth0".into())
    }
    fn cgroup(&mut self, id: u64) -> Option<String> {
        (id == 77).then(|| "/sovereign.slice/koseki.service".into())
    }
    fn exe(&mut self, _: u32, comm: &str) -> Option<String> {
        Some(format!("/usr/bin/{comm}"))
    }
    fn user(&mut self, uid: u32) -> Option<String> {
        (uid == 0).then(|| "root".into())
    }
}

fn enricher() -> Enricher {
    let data = Arc::new(Dataset::embedded().expect("embedded data"));
    let mut enricher =
        Enricher::new(Host::default(), Clock { offset: 1_000 }, data, Box::new(Fixed));
    let meta = serde_json::json!({
        "name": "p", "hash": "ab", "tiers": [{"name": "sovereign"}], "datasets": [],
        "data_built": 0, "max_data_age": 0, "untagged": null,
        "tags": [{
            "slot": 3, "name": "koseki", "tier": "sovereign", "rank": 3,
            "mode": "enforce", "response": "drop", "replies": false,
        }],
        "rules": [{
            "id": 1, "tier": "sovereign", "kind": "deny", "line": 14, "entries": 1,
            "ticket": "T-1",
        }],
    });
    enricher.learn(7, Arc::new(serde_json::from_value(meta).expect("metadata")));
    enricher
}

fn event(destination: Ipv4Addr) -> Event {
    // SAFETY: integers and byte arrays only; zero is a value of each.
    let mut event: Event = unsafe { std::mem::zeroed() };
    event.key.src = Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets();
    event.key.dst = destination.to_ipv6_mapped().octets();
    event.key.dport = 443;
    event.key.sport = 40000;
    event.key.proto = 6;
    event.key.tag = 3;
    event.key.verdict = Verdict::Block as u8;
    event.key.reason = Reason::ForeignControl as u8;
    event.key.ifindex = 2;
    event.key.hook = Hook::TcEgress as u8;
    event.time_ns = 500;
    event.packets = 1;
    event.generation = 7;
    event.rule = 1;
    event.cgroup = 77;
    event.has_owner = 1;
    event.pid = 4242;
    event.comm[..4].copy_from_slice(b"curl");
    event
}

#[test]
fn an_event_becomes_a_record_with_names() {
    let record = enricher().event(&event(Ipv4Addr::new(13, 112, 0, 1))).expect("readable");
    assert_eq!(record.tag.as_deref(), Some("koseki"));
    assert_eq!(record.tier.as_deref(), Some("sovereign"));
    assert_eq!((record.mode, record.response), (Some(Mode::Enforce), Some(Response::Drop)));
    let rule = record.rule.expect("rule");
    assert_eq!(rule.name.as_deref(), Some("sovereign.deny:14"));
    assert_eq!((rule.id, rule.ticket.as_deref()), (1, Some("T-1")));
    assert_eq!((record.time, record.first, record.boottime), (1_500, 1_500, 500));
    assert_eq!(record.destination, IpAddr::from([13, 112, 0, 1]));
    assert_eq!(record.attributes.control.to_string(), "US");
    assert_eq!(record.attributes.location.to_string(), "JP");
    let process = record.process.expect("process");
    assert_eq!(process.unit.as_deref(), Some("koseki.service"));
    assert_eq!(process.exe.as_deref(), Some("/usr/bin/curl"));
    assert_eq!(process.user.as_deref(), Some("root"));
}

#[test]
fn unknown_generations_keep_their_numbers() {
    let mut event = event(Ipv4Addr::new(203, 0, 113, 1));
    event.generation = 8;
    let record = enricher().event(&event).expect("readable");
    assert_eq!(record.policy, Policy { name: None, hash: None, generation: 8 });
    assert_eq!(record.tag.as_deref(), Some("slot-3"));
    assert_eq!(record.rule.expect("rule"), Rule { id: 1, name: None, owner: None, ticket: None });
    assert_eq!(record.attributes.scope.as_str(), "documentation");
}

#[test]
fn icmp_has_type_and_code_and_no_ports() {
    let mut event = event(Ipv4Addr::new(8, 8, 8, 8));
    event.key.proto = 1;
    event.key.dport = 8 * 256 + 1;
    let record = enricher().event(&event).expect("readable");
    assert_eq!(record.icmp, Some(Icmp { kind: 8, code: 1 }));
    assert_eq!((record.source_port, record.destination_port), (0, 0));
}

#[test]
fn numbers_of_another_abi_are_refused() {
    let mut event = event(Ipv4Addr::new(8, 8, 8, 8));
    event.key.reason = 31;
    let error = enricher().event(&event).expect_err("no such reason");
    assert_eq!(error, Unreadable { what: "reason", number: 31 });
}

#[test]
fn a_flow_entry_tells_its_delta_and_asks_the_socket_owner() {
    let key = event(Ipv4Addr::new(8, 8, 8, 8)).key;
    let delta = FlowValue {
        packets: 9,
        bytes: 900,
        first_ns: 100,
        last_ns: 700,
        cookie: 1,
        cgroup: 0,
        generation: 7,
        class: 0,
        rule: 0,
        pad: 0,
    };
    let mut comm = [0; 16];
    comm[..3].copy_from_slice(b"dig");
    let owner = SocketOwner { pid: 9, uid: 1, comm, cgroup: 77, time_ns: 0 };
    let record = enricher().flow(&key, &delta, Some(&owner), Kind::End).expect("readable");
    assert_eq!((record.packets, record.bytes, record.kind), (9, 900, Kind::End));
    assert_eq!((record.first, record.last, record.time), (1_100, 1_700, 1_700));
    assert_eq!(record.rule, None);
    assert_eq!(record.process.expect("process").comm.as_deref(), Some("dig"));
}

#[test]
fn embedded_addresses_have_the_attributes_of_what_they_embed() {
    let data = Dataset::embedded().expect("embedded data");
    let plain = attributes(&data, &[], IpAddr::from([13, 112, 0, 1]));
    for embedding in ["64:ff9b::13.112.0.1", "2002:d70:1::1", "2001:0:101:101:0:0:f28f:fffe"] {
        assert_eq!(attributes(&data, &[], embedding.parse().expect(embedding)), plain);
    }
}

/// The site's own NAT64 prefix is a fact of the policy that judged the packet.
#[test]
fn a_sites_nat64_prefix_is_unwrapped_under_its_policy_alone() {
    let mut enricher = enricher();
    let mut event = event(Ipv4Addr::UNSPECIFIED);
    event.key.dst = "fd00:64::13.112.0.1".parse::<Ipv6Addr>().expect("an address").octets();
    let without = enricher.event(&event).expect("readable");
    assert_eq!(without.attributes.scope.as_str(), "private");
    let mut meta = PolicyMeta { name: "nat".into(), ..PolicyMeta::default() };
    meta.nat64 = vec!["fd00:64::/96".parse().expect("a prefix")];
    enricher.learn(9, Arc::new(meta));
    event.generation = 9;
    let with = enricher.event(&event).expect("readable");
    assert_eq!(with.destination.to_string(), "fd00:64::d70:1");
    let plain = attributes(&enricher.data, &[], IpAddr::from([13, 112, 0, 1]));
    assert_eq!(with.attributes, plain);
    assert_eq!(with.attributes.operator.as_deref(), Some("aws"));
}

#[test]
fn a_clock_before_1970_does_not_wrap() {
    assert_eq!(Clock { offset: i64::MIN }.unix(5), 0);
}
