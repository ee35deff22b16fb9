//! Lays out an [`ImageSpec`] as words. Refuses every specification that the layout cannot hold.

use std::collections::HashMap;

use sov_common::{
    abi::{ABI_VERSION, MAX_TAGS},
    image::{self, MAX_SLOT_WORDS, decision, embedded, flags, header, slot_words, tag},
};

use super::{
    early, selectors,
    spec::{DecisionSpec, Final, ImageSpec, Mode, Response, TagSpec},
    v4, v6,
};

/// A finished image: the kernel's words, then the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub(super) words: Vec<u32>,
    pub(super) metadata: Vec<u8>,
}

/// A specification that no image can hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    #[error(
        "the image needs {need} bytes, the largest slot holds {slot}; use fewer or larger prefixes"
    )]
    TooLarge { need: usize, slot: usize },
    #[error("{count} rules with ports or an expiry overlap at one address, {limit} are possible")]
    LongChain { count: usize, limit: u32 },
    #[error("{count} different lists of conditional rules, 65536 are possible")]
    ManyChains { count: usize },
    #[error("{what}: not a table from every address to a class")]
    Intervals { what: &'static str },
    #[error("tag slot {slot}: {problem}")]
    Tag { slot: u8, problem: &'static str },
    #[error("the decision table has {found} entries for tier {tier}, {classes} classes exist")]
    Decisions { tier: usize, found: usize, classes: u16 },
    #[error("{what}: {count} selectors, {limit} are possible")]
    ManySelectors { what: &'static str, count: usize, limit: usize },
}

impl Image {
    /// Builds and hashes the image. `GENERATION` and `EPOCH` stay zero until it is made live.
    pub fn build(spec: &ImageSpec) -> Result<Self, BuildError> {
        check(spec)?;
        let mut words = Layout::new();
        words.0[header::MAGIC as usize] = image::MAGIC;
        words.0[header::ABI as usize] = ABI_VERSION;
        words.set_hash(header::POLICY_HASH, &spec.policy_hash);
        decisions(&mut words, spec)?;
        v4::build(&mut words, header::DESTINATIONS, &spec.v4, spec.classes.into());
        v6::build(&mut words, header::DESTINATIONS, &spec.v6, spec.classes.into())?;
        let order = tags(&mut words, spec);
        words.set(
            header::DEFAULT_TAG,
            spec.untagged.map_or(image::NO_TAG, |slot| order.value(slot)),
        );
        let mut used = selectors::build(&mut words, &spec.selectors, &order)?;
        used |= if spec.tags.iter().any(|t| t.replies) { flags::REPLIES } else { 0 };
        let rejects = spec.tags.iter().any(|t| t.response == Response::Reject);
        used |= if rejects { flags::REJECT } else { 0 };
        words.set(header::FLAGS, used);
        words.align();
        let count = words.0.len() as u32;
        words.set(header::WORDS, count);
        words.set(header::METADATA_BYTES, spec.metadata.len() as u32);
        words.fits()?;
        Ok(Self { words: words.0, metadata: spec.metadata.clone() }.hashed())
    }

    /// With its own hash in the header.
    pub(super) fn hashed(mut self) -> Self {
        let hash = self.compute_hash();
        for (i, chunk) in hash.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
            self.words[header::CONTENT_HASH as usize + i] = word;
        }
        self
    }

    /// The kernel's part.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    pub fn metadata(&self) -> &[u8] {
        &self.metadata
    }
}

/// Words under construction.
pub(super) struct Layout(pub(super) Vec<u32>);

impl Layout {
    fn new() -> Self {
        Self(vec![0; header::END as usize])
    }

    pub(super) fn set(&mut self, index: u32, word: u32) {
        self.0[index as usize] = word;
    }

    /// The next offset, aligned for a u64 table.
    pub(super) fn align(&mut self) -> u32 {
        if !self.0.len().is_multiple_of(2) {
            self.0.push(0);
        }
        self.0.len() as u32
    }

    /// There is a slot that is large enough.
    pub(super) fn fits(&self) -> Result<(), BuildError> {
        let (need, slot) = (self.0.len() * 4, MAX_SLOT_WORDS as usize * 4);
        slot_words(self.0.len()).map(|_| ()).ok_or(BuildError::TooLarge { need, slot })
    }

    /// Nodes are cache lines of 64 bytes.
    pub(super) fn align_line(&mut self) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(16), 0);
        self.0.len() as u32
    }

    pub(super) fn push_u64(&mut self, value: u64) {
        self.0.push(value as u32);
        self.0.push((value >> 32) as u32);
    }

    fn set_hash(&mut self, index: u32, hash: &[u8; 32]) {
        for (i, c) in hash.chunks_exact(4).enumerate() {
            self.set(index + i as u32, u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        }
    }
}

fn check(spec: &ImageSpec) -> Result<(), BuildError> {
    let ascending = |what, starts_at_zero: bool, sorted: bool, valid: bool| {
        if starts_at_zero && sorted && valid { Ok(()) } else { Err(BuildError::Intervals { what }) }
    };
    let known = |class: u16| class < spec.classes && class < embedded::FIRST;
    ascending(
        "IPv4",
        spec.v4.first().is_some_and(|i| i.0 == 0),
        spec.v4.windows(2).all(|w| w[0].0 < w[1].0),
        spec.v4.iter().all(|i| known(i.1)),
    )?;
    ascending(
        "IPv6",
        spec.v6.first().is_some_and(|i| i.0 == 0),
        spec.v6.windows(2).all(|w| w[0].0 < w[1].0),
        spec.v6.iter().all(|i| known(i.1) || (embedded::FIRST..=embedded::MAPPED).contains(&i.1)),
    )?;
    for (tier, row) in spec.decisions.iter().enumerate() {
        if row.len() != usize::from(spec.classes) {
            let classes = spec.classes;
            return Err(BuildError::Decisions { tier, found: row.len(), classes });
        }
    }
    let mut seen = [false; MAX_TAGS as usize];
    for t in &spec.tags {
        let fail = |problem| Err(BuildError::Tag { slot: t.slot, problem });
        match seen.get_mut(usize::from(t.slot)) {
            None => return fail("slots are 0 to 63"),
            Some(true) => return fail("used twice"),
            Some(free) => *free = true,
        }
        if usize::from(t.tier) >= spec.decisions.len() {
            return fail("its tier does not exist");
        }
    }
    match spec.untagged {
        Some(slot) if !seen.get(usize::from(slot)).is_some_and(|s| *s) => {
            Err(BuildError::Tag { slot, problem: "untagged traffic has no such tag" })
        }
        _ => Ok(()),
    }
}

fn word(then: &Final) -> u32 {
    then.reason as u32
        | if then.allow { decision::ALLOW } else { 0 }
        | u32::from(then.rule) << decision::HIGH_SHIFT
}

/// The decision table, then the chain headers and their entries; equal chains are shared.
fn decisions(words: &mut Layout, spec: &ImageSpec) -> Result<(), BuildError> {
    words.set(header::CLASSES, u32::from(spec.classes));
    words.set(header::TIERS, spec.decisions.len() as u32);
    let offset = words.align();
    words.set(header::DECISIONS, offset);
    let mut chains: Vec<&DecisionSpec> = Vec::new();
    let mut index: HashMap<&DecisionSpec, usize> = HashMap::new();
    for d in spec.decisions.iter().flatten() {
        let mut w = if d.chain.is_empty() {
            word(&d.otherwise)
        } else {
            let next = chains.len();
            let i = *index.entry(d).or_insert(next);
            if i == next {
                chains.push(d);
            }
            decision::CHAIN | (i as u32) << decision::HIGH_SHIFT
        };
        if d.link {
            w |= decision::LINK;
        }
        words.0.push(w);
    }
    if chains.len() > usize::from(u16::MAX) + 1 {
        return Err(BuildError::ManyChains { count: chains.len() });
    }
    let offset = words.align();
    words.set(header::CHAINS, offset);
    let mut entry = offset + chains.len() as u32 * decision::HEADER_WORDS;
    for d in &chains {
        if d.chain.len() > decision::MAX_CHAIN as usize {
            let count = d.chain.len();
            return Err(BuildError::LongChain { count, limit: decision::MAX_CHAIN });
        }
        let expires = d.chain.iter().any(|e| e.until.is_some());
        words.0.extend([entry, d.chain.len() as u32, word(&d.otherwise), u32::from(expires)]);
        entry += d.chain.len() as u32 * decision::ENTRY_WORDS;
    }
    for e in chains.iter().flat_map(|d| &d.chain) {
        let (protocol, ports) = match e.ports {
            None => (decision::ANY_PROTOCOL, 0xffff_0000),
            Some(p) => (u32::from(p.protocol), u32::from(p.low) | u32::from(p.high) << 16),
        };
        words.0.extend([word(&e.then), protocol, ports, e.until.unwrap_or(u32::MAX)]);
    }
    Ok(())
}

/// Tags by falling rank: the smaller selector value wins.
pub(super) struct Order(pub(super) [u32; MAX_TAGS as usize]);

impl Order {
    pub(super) fn value(&self, slot: u8) -> u32 {
        self.0.get(usize::from(slot)).copied().unwrap_or(image::NO_TAG)
    }
}

fn tags(words: &mut Layout, spec: &ImageSpec) -> Order {
    let mut sorted: Vec<&TagSpec> = spec.tags.iter().collect();
    sorted.sort_by_key(|t| (std::cmp::Reverse(t.rank), t.slot));
    let mut order = Order([image::NO_TAG; MAX_TAGS as usize]);
    for (i, t) in sorted.iter().enumerate() {
        order.0[usize::from(t.slot)] = (i as u32) << 8 | u32::from(t.slot);
        let mode = match t.mode {
            Mode::Audit => tag::AUDIT,
            Mode::Enforce => tag::ENFORCE,
        };
        let response = match t.response {
            Response::Reject => tag::REJECT,
            Response::Drop => tag::DROP,
        };
        let replies = if t.replies { tag::REPLIES } else { 0 };
        let word =
            u32::from(t.tier) | mode << tag::MODE_SHIFT | response << tag::RESPONSE_SHIFT | replies;
        let word = word | early::bits(spec, t);
        let at = header::TAGS + u32::from(t.slot) * tag::WORDS;
        words.set(at, word);
        words.set(at + 1, u32::from(t.rank));
    }
    order
}
