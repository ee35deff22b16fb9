//! What a verdict costs: the real tc program over an empty one, against the kernel's LPM trie with the
//! same table. Ratios of one run; absolute times belong to the machine.
//!
//! Every destination is another one, each packet one system call: caches are as a busy host has them
//! ("cached": a thousand runs of the same packet). The trie's program only looks up; ours parses,
//! tags, judges and counts as well, and records what it blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sov_agent::{
    data::dataset::Dataset,
    policy::{self, Environment, Source},
};
use sov_common::classify::TagEntry;
use sov_tests::{
    bpf::{Program, SkBuff},
    bytecode::{self, LpmTrie},
    lab::{SOURCE4, SOURCE6},
    packet::udp_frame,
    require_root,
    rng::Rng,
};

use crate::{
    differential::in_memory,
    generate,
    kernel::{Kernel, unix_now},
};

const DESTINATIONS: usize = 20_000;

#[test]
fn nanoseconds_per_packet() {
    require_root!();
    let kernel = Kernel::load();
    let embedded = Dataset::embedded().expect("the embedded data are sound");
    let profile = policy::profile(policy::profile::DEFAULT).expect("the default profile");
    // The mark of the profile's sovereign tag.
    figures(&kernel, "embedded table", profile, &embedded, 0x5300);
    let world = generate::large(0x100_000, 60_000, 40_000);
    figures(&kernel, "100,000 prefixes", &world.policy, &world.dataset, world.tags[0].1);
}

fn figures(kernel: &Kernel, what: &str, text: &str, dataset: &Dataset, mark: u32) {
    let parsed = policy::parse(Source::new("policy.toml", text));
    let compiled = policy::compile(&parsed, dataset, &Environment::default(), unix_now())
        .unwrap_or_else(|findings| panic!("{} findings", findings.len()));
    kernel.publish(&compiled.image, 1);
    let v4: Vec<(u128, u16)> = compiled.spec.v4.iter().map(|i| (i.0.into(), i.1)).collect();
    let words = compiled.image.words();
    let tier = TagEntry::read(words, 0).tier();
    let empty = bytecode::empty().expect("the empty program loads");
    for (family, intervals, bits) in [("IPv4", &v4, 32), ("IPv6", &compiled.spec.v6, 128u8)] {
        let trie = fill(intervals, bits).program().expect("the trie's program loads");
        // Columns: empty, ours without a tag, ours with one, the trie.
        let own = kernel.program();
        let programs = [&empty, &own, &own, &trie];
        let contexts = [0, 0, mark, 0].map(SkBuff::with_mark);
        let (mut allowed, mut blocked) = (Times::default(), Times::default());
        let mut hot = Times::default();
        let mut rng = Rng::new(0xc057);
        for tries in 0.. {
            if allowed[0].len() >= DESTINATIONS || tries > 40 * DESTINATIONS {
                break;
            }
            let frame = frame(random_in(&mut rng, intervals, bits));
            let (allow, _) = in_memory(words, tier, &frame, unix_now());
            let times = if allow { &mut allowed } else { &mut blocked };
            if times[0].len() >= DESTINATIONS {
                continue;
            }
            for (i, program) in programs.iter().enumerate() {
                times[i].push(measure(program, &frame, &contexts[i], 1));
                if allow && allowed_hot(&hot) {
                    hot[i].push(measure(program, &frame, &contexts[i], 1000));
                }
            }
        }
        for (kind, times) in
            [("allowed", allowed), ("allowed, cached", hot), ("blocked, new flow", blocked)]
        {
            let count = times[0].len();
            assert!(count > 50, "{what}, {family}: only {count} destinations are {kind}");
            let [none, untagged, tagged, trie] = times.map(median);
            let over = |time: u32| time.saturating_sub(none);
            eprintln!(
                "{what}, {family}, {} intervals, {kind}: over an empty program ({none} ns): \
                 untagged +{} ns, tagged +{} ns, LPM trie lookup alone +{} ns ({:.1} x tagged)",
                intervals.len(),
                over(untagged),
                over(tagged),
                over(trie),
                f64::from(over(trie)) / f64::from(over(tagged).max(1)),
            );
            // Far above what was ever measured; catches a verdict that became a scan.
            assert!(over(tagged) < 20_000, "a verdict takes {} ns", over(tagged));
        }
    }
}

/// Nanoseconds by program.
type Times = [Vec<u32>; 4];

/// A thousand runs each for a few destinations are enough.
fn allowed_hot(hot: &Times) -> bool {
    hot[3].len() < 200
}

fn measure(program: &Program, frame: &[u8], context: &SkBuff, repeat: u32) -> u32 {
    program.run_repeated(frame, context, repeat).expect("a test run").1
}

fn median(mut times: Vec<u32>) -> u32 {
    times.sort_unstable();
    times[times.len() / 2]
}

/// An address in a random interval: every interval is equally likely, the worst case for caches.
fn random_in(rng: &mut Rng, intervals: &[(u128, u16)], bits: u8) -> IpAddr {
    let index = rng.below(intervals.len());
    let first = intervals[index].0;
    let last = intervals.get(index + 1).map_or(u128::MAX >> (128 - bits), |next| next.0 - 1);
    let address = first + rng.u128() % (last - first).saturating_add(1).max(1);
    if bits == 32 { Ipv4Addr::from(address as u32).into() } else { Ipv6Addr::from(address).into() }
}

fn frame(to: IpAddr) -> Vec<u8> {
    let from = if to.is_ipv4() { SOURCE4.into() } else { SOURCE6.into() };
    udp_frame(from, to, 443, b"cost")
}

/// The same table as prefixes.
fn fill(intervals: &[(u128, u16)], bits: u8) -> LpmTrie {
    let mut prefixes = vec![];
    let max = u128::MAX >> (128 - bits);
    for (i, (first, class)) in intervals.iter().enumerate() {
        let last = intervals.get(i + 1).map_or(max, |next| next.0 - 1);
        let mut at = *first;
        loop {
            // The largest aligned block that starts here and does not reach beyond the end.
            let mut host = at.trailing_zeros().min(bits.into());
            while host > 0 && (host == 128 || at + ((1 << host) - 1) > last) {
                host -= 1;
            }
            prefixes.push((at, bits - host as u8, *class));
            match at.checked_add(1 << host) {
                Some(next) if next <= last => at = next,
                _ => break,
            }
        }
    }
    let trie = LpmTrie::new(usize::from(bits) / 32, prefixes.len()).expect("a trie");
    for (address, length, class) in prefixes {
        let bytes = (address << (128 - bits)).to_be_bytes();
        trie.insert(&bytes[..usize::from(bits) / 8], length, class.into()).expect("an entry");
    }
    trie
}
