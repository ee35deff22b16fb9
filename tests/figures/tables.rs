//! The policies that are measured, as image, as prefixes for the trie, and as destinations.

use std::time::Instant;

use sov_agent::{
    data::dataset::Dataset,
    policy::{
        self, Compiled, Environment, Source,
        image::{Image, ImageSpec},
    },
};
use sov_common::{
    classify::{Address, Decision, Destination, TagEntry, classify},
    image::embedded,
};
use sov_tests::{packet, rng::Rng};

use crate::{generate, rig::Target};

/// Destinations of one set.
pub(crate) const SET: usize = 65_536;

/// A policy and how its traffic is marked.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) compiled: Compiled,
    pub(crate) mark: u32,
    slot: u8,
    /// Interval starts of the world table: destinations "anywhere".
    world: (Vec<u128>, Vec<u128>),
    pub(crate) compile_ms: f64,
}

impl Table {
    /// The default profile, enforcing, on the embedded data.
    pub(crate) fn embedded() -> Self {
        let dataset = Dataset::embedded().expect("the embedded data are sound");
        let text = policy::profile(policy::profile::DEFAULT).expect("the default profile");
        let text = text.replace("mode = \"audit\"", "mode = \"enforce\"");
        Self::new("embedded data, default profile", &text, &dataset, 0x5300)
    }

    /// Random prefixes of each family with random attributes, three tiers.
    pub(crate) fn generated(name: &str, v4: usize, v6: usize) -> Self {
        let world = generate::large(0x6669_6775, v4, v6);
        let mark = world.tags[0].1;
        Self::new(name, &world.policy, &world.dataset, mark)
    }

    fn new(name: &str, text: &str, dataset: &Dataset, mark: u32) -> Self {
        let parsed = policy::parse(Source::new("policy.toml", text));
        let start = Instant::now();
        let compiled = policy::compile(&parsed, dataset, &Environment::default(), unix_now());
        let compile_ms = start.elapsed().as_secs_f64() * 1e3;
        let compiled = compiled.unwrap_or_else(|findings| {
            panic!("{name}: {}", findings[0].render(&parsed.source, false))
        });
        let slot = compiled.spec.selectors.marks.iter().find(|(value, ..)| *value == mark);
        let slot = slot.expect("the mark is a selector").2;
        let embedded = Dataset::embedded().expect("the embedded data are sound");
        let world = (
            embedded.v4().map(|(start, _)| start.into()).collect(),
            embedded.v6().map(|(start, _)| start).collect(),
        );
        Self { name: name.into(), compiled, mark, slot, world, compile_ms }
    }

    pub(crate) fn image(&self) -> &Image {
        &self.compiled.image
    }

    /// The policy's intervals of a family: start, class. Addresses as numbers.
    pub(crate) fn intervals(&self, family: u8) -> Vec<(u128, u16)> {
        let ImageSpec { v4, v6, .. } = &self.compiled.spec;
        match family {
            4 => v4.iter().map(|&(start, class)| (start.into(), class)).collect(),
            _ => v6.clone(),
        }
    }

    /// The same as prefixes (address, length, class). The commonest class is one prefix of length 0:
    /// what a careful user of a trie would do.
    pub(crate) fn prefixes(&self, family: u8) -> Vec<(u128, u8, u16)> {
        let intervals = self.intervals(family);
        let bits = width(family);
        let mut count = std::collections::BTreeMap::new();
        for (_, class) in &intervals {
            *count.entry(*class).or_insert(0) += 1;
        }
        let (&common, _) = count.iter().max_by_key(|(_, n)| **n).expect("an interval");
        let mut out = vec![(0, 0, common)];
        for (i, &(start, class)) in intervals.iter().enumerate() {
            if class == common {
                continue;
            }
            let last = intervals.get(i + 1).map_or(last_of(family), |next| next.0 - 1);
            let mut at = start;
            loop {
                // The largest aligned block that begins here and ends inside.
                let mut host = at.trailing_zeros().min(bits.into());
                while host > 0 && (host == 128 || last - at < (1u128 << host) - 1) {
                    host -= 1;
                }
                out.push((at, bits - host as u8, class));
                let Some(next) = at.checked_add(1 << host) else { break };
                if next > last {
                    break;
                }
                at = next;
            }
        }
        out
    }

    /// Half inside random intervals of the policy, half inside random intervals of the world table.
    pub(crate) fn mixed(&self, family: u8) -> Vec<Target> {
        let own: Vec<u128> = self.intervals(family).into_iter().map(|(start, _)| start).collect();
        let world = if family == 4 { &self.world.0 } else { &self.world.1 };
        let mut rng = Rng::new(0x6d69_7865 + u64::from(family));
        let pick = |rng: &mut Rng, starts: &[u128]| {
            let i = rng.below(starts.len());
            let last = starts.get(i + 1).map_or(last_of(family), |next| next - 1);
            let span = (last - starts[i]).saturating_add(1);
            starts[i] + rng.u128() % span
        };
        (0..SET)
            .map(|i| pick(&mut rng, if i % 2 == 0 { &own } else { world }))
            .enumerate()
            .map(|(i, address)| Target::new(address, i))
            .collect()
    }

    /// Of [`Table::mixed`] those that the tag may reach (or may not), repeated to a full set.
    pub(crate) fn judged(&self, family: u8, allow: bool) -> Vec<Target> {
        let found: Vec<u128> = self
            .mixed(family)
            .into_iter()
            .map(|target| target.number())
            .filter(|&address| {
                let decision = self.decide(family, address);
                decision.allow == allow && decision.class < embedded::FIRST
            })
            .collect();
        assert!(
            found.len() > 100,
            "{}: {} destinations with allow = {allow}",
            self.name,
            found.len()
        );
        (0..SET).map(|i| Target::new(found[i % found.len()], i)).collect()
    }

    /// The classifier's answer in memory.
    pub(crate) fn decide(&self, family: u8, address: u128) -> Decision {
        let address = match family {
            4 => Address::V4(address as u32),
            _ => Address::V6((address >> 64) as u64, address as u64),
        };
        let words = self.image().words();
        let tier = TagEntry::read(words, self.slot).tier();
        let to =
            Destination { address, protocol: packet::UDP, port: PORT, link: false, wire: true };
        classify(words, tier, &to, || 0)
    }
}

/// Destination port of all frames.
pub(crate) const PORT: u16 = 9000;

fn width(family: u8) -> u8 {
    if family == 4 { 32 } else { 128 }
}

fn last_of(family: u8) -> u128 {
    if family == 4 { u32::MAX.into() } else { u128::MAX }
}

fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}
