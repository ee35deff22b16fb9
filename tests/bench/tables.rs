//! The policies that are measured: as image, as prefixes for the trie and the peers, as destinations.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

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

use crate::{
    rig::Target,
    sample::{TIERS, dataset_of, sample},
};

/// Destinations of one set.
pub(crate) const SET: usize = 65_536;

/// Destination port of all packets.
pub(crate) const PORT: u16 = 9000;

/// Address, length.
pub(crate) type Prefix = (u128, u8);

/// Socket mark of the measured traffic, in all policies.
pub(crate) const MARK: u32 = 0x5300;

/// A policy.
pub(crate) struct Table {
    pub(crate) id: &'static str,
    pub(crate) name: String,
    pub(crate) compiled: Compiled,
    slot: u8,
    /// Interval starts of the world table: destinations "anywhere".
    world: [Vec<u128>; 2],
    /// What the tag may reach, as a careful user would write it for another firewall.
    allowed: [Vec<Prefix>; 2],
    pub(crate) text: String,
    pub(crate) dataset: Dataset,
}

impl Table {
    /// The default profile, enforcing, on the embedded data.
    pub(crate) fn embedded() -> Result<Self, String> {
        let dataset = Dataset::embedded().map_err(|e| e.to_string())?;
        let text = policy::profile(policy::profile::DEFAULT).expect("the default profile");
        let text = text
            .replace("mode = \"audit\"", "mode = \"enforce\"")
            .replace("response = \"reject\"", "response = \"drop\"");
        let mut table = Self::new("embedded", "embedded data", text, dataset)?;
        for family in [4, 6] {
            table.allowed[index(family)] = table.reachable(family);
        }
        Ok(table)
    }

    /// `v4` and `v6` prefixes that the tag may reach, and nothing else. Neighbours differ in what the
    /// policy's other tiers say of them, so that they do not become one.
    pub(crate) fn sampled(id: &'static str, v4: usize, v6: usize) -> Result<Self, String> {
        let world = Dataset::embedded().map_err(|e| e.to_string())?;
        let prefixes = [sample(&world, 4, v4), sample(&world, 6, v6)];
        let dataset = dataset_of(&prefixes);
        let name = format!("{} + {} prefixes", thousands(v4), thousands(v6));
        let mut table = Self::new(id, &name, TIERS.to_owned(), dataset)?;
        table.allowed = prefixes;
        Ok(table)
    }

    fn new(id: &'static str, name: &str, text: String, dataset: Dataset) -> Result<Self, String> {
        let compiled = compile(&text, &dataset)?;
        let slot = compiled.spec.selectors.marks.iter().find(|(value, ..)| *value == MARK);
        let slot = slot.ok_or("the mark is not a selector")?.2;
        let embedded = Dataset::embedded().map_err(|e| e.to_string())?;
        let world = [
            embedded.v4().map(|(start, _)| start.into()).collect(),
            embedded.v6().map(|(start, _)| start).collect(),
        ];
        let allowed = [vec![], vec![]];
        Ok(Self { id, name: name.into(), compiled, slot, world, allowed, text, dataset })
    }

    pub(crate) fn image(&self) -> &Image {
        &self.compiled.image
    }

    /// The image for where no selector of the policy can match: everything has the measured tag.
    pub(crate) fn for_all(&self) -> Image {
        let tag = self.compiled.meta.tags.iter().find(|tag| tag.slot == self.slot);
        let name = &tag.expect("the measured tag has a name").name;
        let text = self.text.lines().filter(|line| !line.starts_with("untagged ="));
        let text = text.fold(String::new(), |text, line| text + line + "\n");
        let text = text.replacen("[defaults]", &format!("[defaults]\nuntagged = \"{name}\""), 1);
        compile(&text, &self.dataset).expect("the policy compiles").image
    }

    /// Policy text and data to image: milliseconds.
    pub(crate) fn build_ms(&self) -> f64 {
        let start = Instant::now();
        let compiled = compile(&self.text, &self.dataset).expect("it has compiled before");
        assert_eq!(compiled.image.words().len(), self.image().words().len());
        start.elapsed().as_secs_f64() * 1e3
    }

    /// What the tag may reach, as prefixes.
    pub(crate) fn allowed(&self, family: u8) -> &[Prefix] {
        &self.allowed[index(family)]
    }

    /// Whether a prefix of [`Table::allowed`] holds the address. The agent's verdict may differ: it
    /// judges an address that carries another one by that one.
    pub(crate) fn is_listed(&self, address: u128, family: u8) -> bool {
        let prefixes = self.allowed(family);
        let after = prefixes.partition_point(|prefix| prefix.0 <= address);
        let Some(&(first, length)) = prefixes[..after].last() else { return false };
        let host = u32::from(width(family) - length);
        (address - first).checked_shr(host).unwrap_or(0) == 0
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
        let mut count = std::collections::BTreeMap::new();
        for (_, class) in &intervals {
            *count.entry(*class).or_insert(0) += 1;
        }
        let (&common, _) = count.iter().max_by_key(|(_, n)| **n).expect("an interval");
        let mut out = vec![(0, 0, common)];
        for (i, &(start, class)) in intervals.iter().enumerate() {
            if class != common {
                let last = intervals.get(i + 1).map_or(last_of(family), |next| next.0 - 1);
                cover(start, last, family, |at, length| out.push((at, length, class)));
            }
        }
        out
    }

    /// Half inside random intervals of the policy, half inside random intervals of the world table.
    pub(crate) fn mixed(&self, family: u8) -> Vec<u128> {
        let own: Vec<u128> = self.intervals(family).into_iter().map(|(start, _)| start).collect();
        let world = &self.world[index(family)];
        let mut rng = Rng::new(0x6d69_7865 + u64::from(family));
        let pick = |rng: &mut Rng, starts: &[u128]| {
            let i = rng.below(starts.len());
            let last = starts.get(i + 1).map_or(last_of(family), |next| next - 1);
            let span = (last - starts[i]).saturating_add(1);
            starts[i] + rng.u128() % span
        };
        (0..SET).map(|i| pick(&mut rng, if i % 2 == 0 { &own } else { world })).collect()
    }

    /// Of [`Table::mixed`] those that the tag may reach (or may not), repeated to a full set.
    pub(crate) fn judged(&self, family: u8, allow: bool) -> Vec<u128> {
        let wanted = |&address: &u128| {
            let decision = self.decide(family, address);
            decision.allow == allow && decision.class < embedded::FIRST
        };
        let found: Vec<u128> = self.mixed(family).into_iter().filter(wanted).collect();
        assert!(found.len() > 100, "{}: {} are allow = {allow}", self.name, found.len());
        (0..SET).map(|i| found[i % found.len()]).collect()
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

    /// Neighbouring intervals that the tag may reach, as one, as prefixes.
    fn reachable(&self, family: u8) -> Vec<Prefix> {
        let intervals = self.intervals(family);
        let mut out = vec![];
        let mut open: Option<u128> = None;
        for (i, &(start, class)) in intervals.iter().enumerate() {
            let allow = class < embedded::FIRST && self.decide(family, start).allow;
            if allow {
                open = open.or(Some(start));
            }
            let ends = !allow || i + 1 == intervals.len();
            if let Some(first) = open.filter(|_| ends) {
                let last = if allow { last_of(family) } else { start - 1 };
                cover(first, last, family, |at, length| out.push((at, length)));
                open = None;
            }
        }
        out
    }
}

/// A target per address; source ports differ, so that every one is a flow of its own.
pub(crate) fn targets(addresses: &[u128]) -> Vec<Target> {
    addresses.iter().enumerate().map(|(i, address)| Target::new(*address, i)).collect()
}

fn compile(text: &str, dataset: &Dataset) -> Result<Compiled, String> {
    let parsed = policy::parse(Source::new("policy.toml", text));
    policy::compile(&parsed, dataset, &Environment::default(), unix_now())
        .map_err(|findings| findings[0].render(&parsed.source, false))
}

/// The prefixes that an interval consists of.
pub(crate) fn cover(first: u128, last: u128, family: u8, mut push: impl FnMut(u128, u8)) {
    let bits = width(family);
    let mut at = first;
    loop {
        // The largest aligned block that begins here and ends inside.
        let mut host = at.trailing_zeros().min(bits.into());
        while host > 0 && (host == 128 || last - at < (1u128 << host) - 1) {
            host -= 1;
        }
        push(at, bits - host as u8);
        match at.checked_add(1 << host) {
            Some(next) if next <= last => at = next,
            _ => return,
        }
    }
}

pub(crate) fn index(family: u8) -> usize {
    usize::from(family == 6)
}

pub(crate) fn width(family: u8) -> u8 {
    if family == 4 { 32 } else { 128 }
}

pub(crate) fn last_of(family: u8) -> u128 {
    if family == 4 { u32::MAX.into() } else { u128::MAX }
}

/// `1,000,000`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(crate) fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

/// An address as text.
pub(crate) fn text_of(address: u128, family: u8) -> String {
    address_of(address, family).to_string()
}

pub(crate) fn address_of(address: u128, family: u8) -> IpAddr {
    match family {
        4 => Ipv4Addr::from(address as u32).into(),
        _ => Ipv6Addr::from(address).into(),
    }
}
