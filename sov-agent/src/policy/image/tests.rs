//! The tables against a linear scan, on both edges of every interval.

use proptest::prelude::*;
use sov_common::{
    classify::TagEntry,
    image::header,
    lookup::{lookup_key, lookup_v4, lookup_v6},
    verdict::Reason,
};

use super::*;

const CLASSES: u16 = 7;

fn spec(v4: Vec<(u32, u16)>, v6: Vec<(u128, u16)>) -> ImageSpec {
    let block = Final { allow: false, reason: Reason::Unlocatable, rule: 0 };
    let row = vec![DecisionSpec { chain: vec![], otherwise: block, link: false }; CLASSES.into()];
    ImageSpec { v4, v6, classes: CLASSES, decisions: vec![row], ..ImageSpec::default() }
}

fn class_at<T: PartialOrd + Copy>(intervals: &[(T, u16)], address: T) -> u16 {
    intervals[intervals.partition_point(|(start, _)| *start <= address) - 1].1
}

fn check_v4(image: &Image, intervals: &[(u32, u16)], address: u32) {
    let found = lookup_v4(image.words(), header::DESTINATIONS, address);
    assert_eq!(found, class_at(intervals, address), "{}", std::net::Ipv4Addr::from(address));
}

fn check_v6(image: &Image, intervals: &[(u128, u16)], address: u128) {
    let found =
        lookup_v6(image.words(), header::DESTINATIONS, (address >> 64) as u64, address as u64);
    assert_eq!(found, class_at(intervals, address), "{}", std::net::Ipv6Addr::from(address));
}

/// Boundaries that cluster: near each other, near edges of strides, halves and the whole space.
fn starts_v6() -> impl Strategy<Value = u128> {
    prop_oneof![
        any::<u128>(),
        any::<u64>().prop_map(|h| u128::from(h) << 64),
        (0u128..4, 0u128..40).prop_map(|(q, n)| (q << 126) | (n << 60)),
        (0u128..4, 0u128..40).prop_map(|(q, n)| (q << 126) | (5 << 64) | n),
        (0u128..600).prop_map(|n| u128::MAX - n),
        (0u128..40).prop_map(|n| u128::MAX - (n << 64)),
    ]
}

fn starts_v4() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..600).prop_map(|n| n << 8),
        0u32..600,
        (0u32..600).prop_map(|n| u32::MAX - n)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tables_equal_a_linear_scan(
        v4 in prop::collection::btree_map(starts_v4(), 0..CLASSES, 0..300),
        v6 in prop::collection::btree_map(starts_v6(), 0..CLASSES, 0..900),
        random in prop::collection::vec(any::<u128>(), 200),
    ) {
        let mut v4 = v4;
        let mut v6 = v6;
        v4.entry(0).or_insert(1);
        v6.entry(0).or_insert(2);
        let v4: Vec<_> = v4.into_iter().collect();
        let v6: Vec<_> = v6.into_iter().collect();
        let image = Image::build(&spec(v4.clone(), v6.clone())).unwrap();
        for (start, _) in &v4 {
            check_v4(&image, &v4, *start);
            check_v4(&image, &v4, start.wrapping_sub(1));
        }
        for (start, _) in &v6 {
            check_v6(&image, &v6, *start);
            check_v6(&image, &v6, start.wrapping_sub(1));
        }
        for address in random {
            check_v4(&image, &v4, address as u32);
            check_v6(&image, &v6, address);
            check_v6(&image, &v6, address >> 2 | 1 << 125);
        }
        prop_assert_eq!(Image::from_bytes(&image.to_bytes()).unwrap(), image);
    }

    #[test]
    fn hash_tables_find_every_key_and_nothing_else(
        keys in prop::collection::btree_map(any::<u64>(), 0u8..3, 1..500),
        others in prop::collection::vec(any::<u64>(), 100),
    ) {
        let mut spec = spec(vec![(0, 0)], vec![(0, 0)]);
        for slot in 0..3 {
            spec.tags.push(TagSpec {
                slot, rank: slot, tier: 0, mode: Mode::Audit, response: Response::Drop, replies: false,
            });
        }
        spec.selectors.cgroups = keys.iter().map(|(k, s)| (*k, 1, *s)).collect();
        let image = Image::build(&spec).unwrap();
        for (key, slot) in &keys {
            let value = lookup_key(image.words(), header::CGROUPS, *key);
            prop_assert_eq!(value & 0xff, u32::from(*slot));
            // The highest rank has the smallest order.
            prop_assert_eq!(value >> 8, 2 - u32::from(*slot));
        }
        for key in others.iter().filter(|k| !keys.contains_key(k)) {
            let none = sov_common::image::NO_TAG;
            prop_assert_eq!(lookup_key(image.words(), header::CGROUPS, *key), none);
        }
    }
}

#[test]
fn damage_is_noticed() {
    let image = Image::build(&spec(vec![(0, 0), (9, 3)], vec![(0, 0)])).unwrap();
    let bytes = image.to_bytes();
    assert_eq!(
        Image::from_bytes(&bytes[..bytes.len() - 1]),
        Err(ImageError::Format("it is truncated or has trailing bytes"))
    );
    assert!(matches!(Image::from_bytes(b"SOVI"), Err(ImageError::Abi { .. })));
    for at in [12, 4 * 300, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(Image::from_bytes(&damaged), Err(ImageError::Hash), "byte {at}");
    }
}

#[test]
fn what_no_image_can_hold_is_refused() {
    let intervals = |v4| Image::build(&spec(v4, vec![(0, 0)]));
    assert!(matches!(intervals(vec![]), Err(BuildError::Intervals { .. })));
    assert!(matches!(intervals(vec![(1, 0)]), Err(BuildError::Intervals { .. })));
    assert!(matches!(intervals(vec![(0, CLASSES)]), Err(BuildError::Intervals { .. })));
    assert!(matches!(intervals(vec![(0, 0), (5, 1), (5, 2)]), Err(BuildError::Intervals { .. })));
}

#[test]
fn the_socket_hooks_refuse_only_what_no_hidden_selector_frees() {
    let tag = |slot, rank, mode| TagSpec {
        slot,
        rank,
        tier: 0,
        mode,
        response: Response::Reject,
        replies: false,
    };
    // Slot 0 is found by cgroup, slot 1 by source.
    let early = |mode, rank, replies, untagged| {
        let mut spec = spec(vec![(0, 0)], vec![(0, 0)]);
        spec.tags = vec![tag(0, 5, Mode::Enforce), TagSpec { replies, ..tag(1, rank, mode) }];
        spec.selectors.cgroups = vec![(7, 1, 0)];
        spec.selectors.sources_v4 = vec![(0, None), (9, Some(1))];
        spec.untagged = untagged;
        let entry = TagEntry::read(Image::build(&spec).unwrap().words(), 0);
        (entry.early(), entry.answers())
    };
    assert_eq!(early(Mode::Enforce, 6, false, None), (true, false), "it refuses as well");
    assert_eq!(early(Mode::Audit, 6, false, None), (false, false), "it would pass");
    assert_eq!(early(Mode::Audit, 4, false, None), (true, false), "a lower rank never wins");
    assert_eq!(
        early(Mode::Enforce, 4, false, Some(0)),
        (false, false),
        "any rank beats the default"
    );
    assert_eq!(early(Mode::Enforce, 6, true, None), (true, true), "its answers pass");
}

/// `count` random prefixes of each family as intervals: lengths as in routing tables, IPv6 to /64, and one
/// in twenty finer.
fn scattered(count: usize) -> ImageSpec {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut v4, mut v6) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    v4.insert(0, 0);
    v6.insert(0, 0);
    for _ in 0..count {
        let class = (random() % 6) as u16 + 1;
        let fine = random() % 20 == 0;
        let length = 12 + random() % 13 + u64::from(fine) * 8;
        let start = random() as u32 >> (32 - length) << (32 - length);
        v4.insert(start, class);
        v4.entry(start.wrapping_add(1 << (32 - length))).or_insert(0);
        let length = if fine { 65 + random() % 64 } else { 20 + random() % 45 };
        let bits = u128::from(random()) << 64 | u128::from(random());
        let start = (bits >> 3 | 1 << 125) >> (128 - length) << (128 - length);
        v6.insert(start, class);
        v6.entry(start.wrapping_add(1 << (128 - length))).or_insert(0);
    }
    spec(v4.into_iter().collect(), v6.into_iter().collect())
}

#[test]
fn images_stay_small() {
    const MIB: usize = 1 << 20;
    let bytes = |count| {
        let image = Image::build(&scattered(count)).unwrap();
        image.words().len() * 4
    };
    let (hundred, million) = (bytes(100_000), bytes(825_000));
    assert!(hundred <= 6 * MIB, "100,000 + 100,000 prefixes: {hundred} bytes");
    assert!(million <= 64 * MIB, "1.65 million prefixes: {million} bytes");
    eprintln!("100,000 + 100,000: {} KiB, 1.65 million: {} KiB", hundred >> 10, million >> 10);
    // The default policy on the embedded data fits the smallest slot.
    let data = crate::data::dataset::Dataset::embedded().unwrap();
    let text = crate::policy::profile(crate::policy::profile::DEFAULT).unwrap();
    let parsed = crate::policy::parse(crate::policy::Source::new("default", text));
    let env = crate::policy::Environment::default();
    let compiled = crate::policy::compile(&parsed, &data, &env, data.built()).unwrap();
    let embedded = compiled.image.words().len() * 4;
    assert!(embedded <= MIB + MIB / 2, "embedded data: {embedded} bytes");
}
