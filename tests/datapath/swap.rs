//! One pointer write swaps everything: no packet is judged by a mixture, none is lost or let through.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use sov_tests::{
    lab::{SOURCE4, SOURCE6},
    packet::udp_frame,
    require_root, rules,
};

use crate::{kernel::Kernel, worlds};

/// The policy of the parser's table, and one that turns two of its answers around.
fn policies() -> [String; 2] {
    let other =
        rules::POLICY.replace("10.0.0.0/8", "172.16.0.0/12").replace("fd00::/8", "fc00::/8");
    [rules::POLICY.to_owned(), other]
}

#[test]
fn a_swap_under_a_million_packets_is_exact() {
    require_root!();
    let kernel = Kernel::load();
    let images = policies().map(|text| worlds::compile(&text, None));
    kernel.publish(&images[0], 1);
    let frame = |to: &str| {
        let to: std::net::IpAddr = to.parse().unwrap();
        let from = if to.is_ipv4() { SOURCE4.into() } else { SOURCE6.into() };
        udp_frame(from, to, 9000, b"swap")
    };
    // Both images say the same of these.
    let always = [frame("198.51.100.77"), frame("2001:db8:bad::77")];
    let never = [frame("198.51.100.7"), frame("2001:db8:bad::7")];
    // Either the first is allowed or the second, never both and never neither.
    let first = [frame("10.9.9.9"), frame("fd00:9::9")];
    let second = [frame("172.16.9.9"), frame("fc00:9::9")];
    let program = kernel.program();
    let done = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    let context = sov_tests::bpf::SkBuff::with_mark(rules::MARK);
    let passes = |frame: &[u8]| program.run(frame, &context).expect("a test run") == u32::MAX;
    let before = kernel.counters();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut packets, mut mixed, mut changes) = (0u64, 0u64, 0u64);
            let mut last = true;
            while packets < 1_000_000 {
                for family in 0..2 {
                    assert!(passes(&always[family]), "an allowed packet was lost");
                    assert!(!passes(&never[family]), "a forbidden packet passed");
                    let one = passes(&first[family]);
                    let two = passes(&second[family]);
                    packets += 4;
                    if one == two {
                        // Legal only if a swap lay between the two packets: the answers of one image
                        // differ.
                        mixed += 1;
                    } else if one != last {
                        changes += 1;
                        last = one;
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
            (packets, mixed, changes)
        });
        let mut generation = 2;
        while !done.load(Ordering::Relaxed) {
            kernel.publish(&images[(generation as usize % 2) ^ 1], generation);
            swaps.fetch_add(1, Ordering::Relaxed);
            generation += 1;
        }
        let (packets, mixed, changes) = sender.join().expect("the sender found no wrong packet");
        let swaps = swaps.load(Ordering::Relaxed);
        eprintln!("{packets} packets, {swaps} swaps, {changes} seen, {mixed} pairs across a swap");
        assert!(swaps >= 20, "{swaps} swaps");
        assert!(changes >= 10, "the sender saw {changes} of {swaps} swaps");
        assert!(changes + mixed <= 2 * swaps, "{changes} changes, {mixed} mixed, {swaps} swaps");
        assert!(mixed <= swaps, "{mixed} pairs with one answer, but only {swaps} swaps");
        assert_eq!(kernel.total(&before), packets, "every packet is counted once");
    });
}
