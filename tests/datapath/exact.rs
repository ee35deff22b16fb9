//! IPv6 boundaries finer than /64 are exact: every prefix length, in the kernel, address by address.

use std::net::Ipv6Addr;

use sov_common::verdict::{Reason, Verdict};
use sov_tests::{lab::SOURCE6, packet::udp_frame, require_root, rules::MARK};

use crate::{kernel::Kernel, worlds};

fn policy(allow: &[String], deny: &[String]) -> String {
    let list = |prefixes: &[String]| {
        let items: Vec<String> =
            prefixes.iter().map(|p| format!("    {{ prefix = \"{p}\" }},\n")).collect();
        items.concat()
    };
    format!(
        r#"
version = 1
name = "exact"

[defaults]
mode = "enforce"
response = "drop"

[[tier]]
name = "strict"
location = ["JP"]
control = ["JP"]
allow = [
{}]
deny = [
{}]

[[tag]]
name = "marked"
tier = "strict"
rank = 1
select = [ {{ mark = "0x30/0xf0" }} ]
"#,
        list(allow),
        list(deny)
    )
}

fn expect(kernel: &Kernel, address: u128, reason: Reason) {
    let to = Ipv6Addr::from(address);
    let frame = udp_frame(SOURCE6.into(), to.into(), 9000, b"exact");
    let before = kernel.counters();
    let passed = kernel.passes(&frame, MARK);
    let allow = reason == Reason::AllowRule;
    let verdict = if allow { Verdict::Allow } else { Verdict::Block };
    assert_eq!(passed, allow, "{to}");
    assert_eq!(kernel.moved(&before), [(0, reason, verdict, 1)], "{to}");
}

fn bits(text: &str) -> u128 {
    text.parse::<Ipv6Addr>().expect("an address").into()
}

/// One /128 allowed inside a blocked /48, and one blocked inside an allowed /48.
#[test]
fn a_single_address_inside_a_48_both_ways() {
    require_root!();
    let kernel = Kernel::load();
    let text = policy(
        &["2600:1:2::5:0:7/128".into(), "2600:9::/48".into()],
        &["2600:1:2::/48".into(), "2600:9::5:0:7/128".into()],
    );
    kernel.publish(&worlds::compile(&text, None), 1);
    let (inside, outside) = (Reason::AllowRule, Reason::DenyRule);
    for (first, single, others) in [
        ("2600:1:2::", "2600:1:2::5:0:7", (inside, outside)),
        ("2600:9::", "2600:9::5:0:7", (outside, inside)),
    ] {
        let (first, single) = (bits(first), bits(single));
        expect(&kernel, single, others.0);
        for near in [single - 1, single + 1, first, first | ((1 << 80) - 1)] {
            expect(&kernel, near, others.1);
        }
        // One bit away, at every position below the /48.
        for bit in 0..80 {
            expect(&kernel, single ^ 1 << bit, others.1);
        }
        // Beyond the /48, the matrix speaks.
        for beyond in [first - 1, first + (1 << 80)] {
            let to = Ipv6Addr::from(beyond);
            let frame = udp_frame(SOURCE6.into(), to.into(), 9000, b"exact");
            assert!(!kernel.passes(&frame, MARK), "{to}");
        }
    }
}

/// Every prefix length from /33 to /128 in turn, allowed inside a denied /32: both edges and the
/// addresses beyond them.
#[test]
fn every_prefix_length_is_exact() {
    require_root!();
    let kernel = Kernel::load();
    // Nested around one address: each length ends where the next longer one does not.
    let centre = bits("2600:a5a5:5a5a:a5a5:5a5a:a5a5:5a5a:a5a5");
    for length in 33..=128u32 {
        let mask = u128::MAX << (128 - length);
        let (first, last) = (centre & mask, centre | !mask);
        let text = policy(
            &[format!("{}/{length}", Ipv6Addr::from(first))],
            &["2600:a5a5::/32".to_owned()],
        );
        let image = worlds::compile_small(&text);
        kernel.publish(&image, length);
        for inside in [first, last, centre, first + (last - first) / 2] {
            expect(&kernel, inside, Reason::AllowRule);
        }
        for outside in [first.wrapping_sub(1), last.wrapping_add(1)] {
            if outside >> 96 == 0x2600_a5a5 {
                expect(&kernel, outside, Reason::DenyRule);
            }
        }
    }
}

/// Hundreds of boundaries inside one /64.
#[test]
fn many_single_addresses_in_one_64() {
    require_root!();
    let kernel = Kernel::load();
    let base = bits("2600:77::");
    let chosen: Vec<u128> = (0..300u128).map(|i| base + i * i * 7 + 3).collect();
    let allow: Vec<String> = chosen.iter().map(|a| format!("{}/128", Ipv6Addr::from(*a))).collect();
    kernel.publish(&worlds::compile_small(&policy(&allow, &["2600:77::/64".to_owned()])), 1);
    for address in &chosen {
        expect(&kernel, *address, Reason::AllowRule);
        for near in [address - 1, address + 1] {
            if !chosen.contains(&near) {
                expect(&kernel, near, Reason::DenyRule);
            }
        }
    }
}
