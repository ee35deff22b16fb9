//! Input of the image builder: a policy reduced to classes, decisions, tags and selectors.

use sov_common::verdict::Reason;

/// Everything that an image holds. The builder checks it and lays it out.
#[derive(Clone, Debug, Default)]
pub struct ImageSpec {
    /// Interval starts (host byte order, strictly ascending, first 0) and the class from there on.
    /// Classes are dense, from 0; or one of `sov_common::image::embedded` (IPv6 only).
    pub v4: Vec<(u32, u16)>,
    pub v6: Vec<(u128, u16)>,
    /// Number of classes.
    pub classes: u16,
    /// `decisions[tier][class]`.
    pub decisions: Vec<Vec<DecisionSpec>>,
    pub tags: Vec<TagSpec>,
    pub selectors: SelectorSpec,
    /// Slot of the tag that traffic without any matching selector gets; `None` = it passes.
    pub untagged: Option<u8>,
    /// SHA-256 of the policy source and its data.
    pub policy_hash: [u8; 32],
    /// For the agent: names of tags, tiers, rules, owners (JSON). Not read by the kernel.
    pub metadata: Vec<u8>,
}

/// What a tier says about a class.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DecisionSpec {
    /// Rules with ports or an expiry, in order of precedence; the first that matches decides.
    pub chain: Vec<ChainEntry>,
    /// What holds when no entry of the chain matches.
    pub otherwise: Final,
    /// Neighbour discovery, DHCP and group membership in exact form pass (link-scope classes only).
    pub link: bool,
}

/// An unconditional decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Final {
    pub allow: bool,
    pub reason: Reason,
    /// Rule id, 0 = no rule.
    pub rule: u16,
}

/// A conditional rule. A rule with several port ranges is several entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainEntry {
    pub then: Final,
    /// `None` = any protocol and port.
    pub ports: Option<PortRange>,
    /// Unix seconds; from then on the entry does not match. `None` = for ever.
    pub until: Option<u32>,
}

/// A protocol and an inclusive range of destination ports (0 to 65535 = all).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    pub protocol: u8,
    pub low: u16,
    pub high: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Audit,
    Enforce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Response {
    Reject,
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSpec {
    /// 0 to 63, stable for a tag name while the datapath lives; counters are indexed by it.
    pub slot: u8,
    /// A higher rank wins where several tags match.
    pub rank: u8,
    pub tier: u8,
    pub mode: Mode,
    pub response: Response,
    /// Answers to connections that the other side opened pass.
    pub replies: bool,
}

/// Selectors resolved to numbers; each names the slot of its tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectorSpec {
    /// (cgroup v2 id, depth below the hierarchy's root (root = 0), slot).
    pub cgroups: Vec<(u64, u8, u8)>,
    /// (value, mask, slot).
    pub marks: Vec<(u32, u32, u8)>,
    /// Source prefixes as intervals, like `ImageSpec::v4`: start, slot of the winning tag.
    pub sources_v4: Vec<(u32, Option<u8>)>,
    pub sources_v6: Vec<(u128, Option<u8>)>,
    /// (DSCP 0 to 63, slot).
    pub dscps: Vec<(u8, u8)>,
    /// (VLAN id, slot).
    pub vlans: Vec<(u16, u8)>,
    /// (interface index, slot).
    pub interfaces: Vec<(u32, u8)>,
    /// (user id, slot).
    pub uids: Vec<(u32, u8)>,
}
