//! Policies of any size, from the world table: which prefixes, and data that tell them apart.

use std::collections::BinaryHeap;

use sov_agent::data::{
    catalog::Catalog,
    dataset::Dataset,
    model::{Attributes, Control, ControlBasis, Country, Location, SourceInfo},
};
use sov_tests::rng::Rng;

use crate::tables::{Prefix, cover, index, last_of, unix_now, width};

/// Three tiers that tell the four kinds of [`dataset_of`] apart; the first may reach all four.
pub(crate) const TIERS: &str = r#"
version = 1
name = "sampled"

[defaults]
mode = "enforce"
response = "drop"
max_data_age = "3650d"

[[tier]]
name = "all"
location = ["JP"]
control = ["JP", "US"]
min_sources = 1

[[tier]]
name = "home"
location = ["JP"]
control = ["JP"]
min_sources = 1

[[tier]]
name = "sure"
location = ["JP"]
control = ["JP", "US"]
min_sources = 2

[[tag]]
name = "a"
tier = "all"
rank = 1
select = [ { mark = "0x5300/0xff00" } ]

[[tag]]
name = "b"
tier = "home"
rank = 1
select = [ { mark = "0x5400/0xff00" } ]

[[tag]]
name = "c"
tier = "sure"
rank = 1
select = [ { mark = "0x5500/0xff00" } ]
"#;

/// `count` prefixes of the world table. Where it has too few, its shortest are halved until there are
/// a quarter too many, and runs of neighbours are left out: as in real tables, holes are clustered.
pub(crate) fn sample(world: &Dataset, family: u8, count: usize) -> Vec<Prefix> {
    let starts: Vec<(u128, u32)> = match family {
        4 => world.v4().map(|(start, id)| (start.into(), id)).collect(),
        _ => world.v6().collect(),
    };
    let mut all: Vec<Prefix> = vec![];
    for (i, &(start, id)) in starts.iter().enumerate() {
        let last = starts.get(i + 1).map_or(last_of(family), |next| next.0 - 1);
        if matches!(world.attributes(id).location, Location::Country(_)) {
            cover(start, last, family, |at, length| all.push((at, length)));
        }
    }
    let mut rng = Rng::new(0x7361_6d70);
    if all.len() >= count {
        // A random subset.
        for i in 0..count {
            let other = i + rng.below(all.len() - i);
            all.swap(i, other);
        }
        all.truncate(count);
    } else {
        let mut heap: BinaryHeap<(u8, Prefix)> =
            all.iter().map(|&prefix| (u8::MAX - prefix.1, prefix)).collect();
        while heap.len() < count + count / 4 {
            let (_, (address, length)) = heap.pop().expect("the world is not empty");
            let half = 1u128 << (width(family) - length - 1);
            for at in [address, address + half] {
                heap.push((u8::MAX - length - 1, (at, length + 1)));
            }
        }
        all = heap.into_iter().map(|(_, prefix)| prefix).collect();
        all.sort_unstable();
        leave_out(&mut all, count, &mut rng);
    }
    all.sort_unstable();
    all
}

/// Removes random runs of 64 neighbours until `count` are left.
fn leave_out(all: &mut Vec<Prefix>, count: usize, rng: &mut Rng) {
    const RUN: usize = 64;
    let mut excess = all.len() - count;
    let mut gone = vec![0; all.len() / RUN];
    while excess > 0 {
        let run = rng.below(gone.len());
        let more = excess.min(RUN - gone[run]);
        gone[run] += more;
        excess -= more;
    }
    let mut at = 0;
    all.retain(|_| {
        let (run, place) = (at / RUN, at % RUN);
        at += 1;
        gone.get(run).is_none_or(|&gone| place >= gone)
    });
}

/// Data in which these prefixes are of four kinds and all else is unknown.
pub(crate) fn dataset_of(prefixes: &[Vec<Prefix>; 2]) -> Dataset {
    let country = |code: &str| Country::new(code).expect("two letters");
    let known = |sources, control: &str| Attributes {
        location: Location::Country(country("JP")),
        sources,
        asn: 64_500,
        operator: None,
        control: Control::Country(country(control)),
        control_basis: ControlBasis::Registered,
        registered: None,
        provider_region: None,
        dataset: 0,
    };
    let unknown = Attributes {
        location: Location::Unknown,
        sources: 0,
        asn: 0,
        control: Control::Unknown,
        control_basis: ControlBasis::None,
        ..known(0, "JP")
    };
    let kinds = vec![unknown, known(1, "JP"), known(1, "US"), known(2, "JP"), known(2, "US")];
    let intervals = |family: u8| {
        let mut rng = Rng::new(0x6b69_6e64);
        let mut out: Vec<(u128, u32)> = vec![(0, 0)];
        let mut before = 0;
        for &(address, length) in &prefixes[index(family)] {
            // Never the kind of the prefix before.
            before = (before + rng.below(3) as u32) % 4 + 1;
            if out.last().is_some_and(|last| last.0 == address) {
                out.pop();
            }
            out.push((address, before));
            let span = 1u128.checked_shl(u32::from(width(family) - length)).unwrap_or(0);
            match address.checked_add(span) {
                Some(next) if next <= last_of(family) && span > 0 => out.push((next, 0)),
                _ => {}
            }
        }
        out
    };
    let v4 = intervals(4).into_iter().map(|(start, id)| (start as u32, id)).collect();
    let source = SourceInfo {
        id: "sampled".into(),
        title: "sampled".into(),
        built: unix_now(),
        expires: None,
        licence: "none".into(),
        sha256: "0".repeat(64),
        records: 0,
    };
    let catalog = Catalog::embedded().expect("the embedded catalog parses");
    Dataset::from_intervals(v4, intervals(6), kinds, vec![source], catalog)
        .expect("intervals are sound")
}
