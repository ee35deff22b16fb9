//! Layout of the policy image: one flat array of little-endian u32 words that the kernel reads as it is.
//!
//! Everything that a verdict depends on is in here, tag selectors included. The agent writes it
//! (`sov-agent/src/policy/image`), this module reads it. All offsets are word indexes from the start
//! of the image unless they say otherwise; offsets of u64 tables are even. A reader masks every index
//! with the slot size, so that a damaged image can give a wrong answer but never an invalid access;
//! the agent verifies an image before it is made live.

use crate::lookup::{lookup_v4, lookup_v6};

/// `SOVI` in ASCII, read as a little-endian word.
pub const MAGIC: u32 = u32::from_le_bytes(*b"SOVI");

/// Capacity of the kernel's slot for an image: 100,000 scattered prefixes of each family need 4.3 MiB.
/// Kernels that limit a map value to KMALLOC_MAX_SIZE (4 MiB) refuse it.
pub const SLOT_WORDS: u32 = 1 << 21;
pub const SLOT_BYTES: usize = SLOT_WORDS as usize * 4;

/// Header words.
pub mod header {
    pub const MAGIC: u32 = 0;
    pub const ABI: u32 = 1;
    /// Words that the kernel reads; metadata for the agent follows.
    pub const WORDS: u32 = 2;
    /// Selector kinds in use, [`super::flags`].
    pub const FLAGS: u32 = 3;
    /// Set when the image is made live; not part of the content hash.
    pub const GENERATION: u32 = 4;
    /// Unix seconds minus CLOCK_BOOTTIME seconds, set when made live; not part of the content hash.
    pub const EPOCH: u32 = 5;
    pub const CLASSES: u32 = 6;
    pub const TIERS: u32 = 7;
    /// Offset of the decision table, `[tier][class]` words.
    pub const DECISIONS: u32 = 8;
    /// Offset of the chain headers (4 words each), then their entries (4 words each).
    pub const CHAINS: u32 = 9;
    /// Selector value of traffic that no selector matches, or [`super::NO_TAG`].
    pub const DEFAULT_TAG: u32 = 10;
    /// Bit n: a cgroup selector lives at depth n of the hierarchy (root = 0).
    pub const CGROUP_LEVELS: u32 = 11;
    /// Hash tables of selectors: offset, then mask (slots - 1).
    pub const CGROUPS: u32 = 12;
    pub const UIDS: u32 = 14;
    pub const INTERFACES: u32 = 16;
    /// Offset of 64 selector values by DSCP.
    pub const DSCPS: u32 = 18;
    /// Offset and count of {value, mask, selector value, 0}, the smallest selector value first.
    pub const MARKS: u32 = 19;
    /// Always 0, which the verifier cannot know: see [`super::Words::zero`].
    pub const ZERO: u32 = 22;
    /// Highest-ranked tag that source prefixes or DSCP select, for frames that hide both.
    pub const BLIND_TAG: u32 = 23;
    /// Length of the metadata in bytes, after the kernel's words.
    pub const METADATA_BYTES: u32 = 21;
    /// SHA-256 of the policy source and its data (8 words).
    pub const POLICY_HASH: u32 = 24;
    /// SHA-256 of the image with this field, `GENERATION` and `EPOCH` zero, metadata included.
    pub const CONTENT_HASH: u32 = 32;
    /// 64 tag entries of 4 words, by slot.
    pub const TAGS: u32 = 64;
    /// Prefix tables: destinations, then sources.
    pub const DESTINATIONS: u32 = 320;
    pub const SOURCES: u32 = 448;
    /// First word after the header.
    pub const END: u32 = 1024;
}

/// Bits of `header::FLAGS`: a selector kind without its bit costs nothing per packet.
pub mod flags {
    pub const CGROUP: u32 = 1 << 0;
    pub const MARK: u32 = 1 << 1;
    pub const SOURCE: u32 = 1 << 2;
    pub const DSCP: u32 = 1 << 3;
    pub const INTERFACE: u32 = 1 << 4;
    pub const UID: u32 = 1 << 5;
    /// Some tag has `replies = "allow"`.
    pub const REPLIES: u32 = 1 << 6;
    /// Some tag has `response = "reject"`.
    pub const REJECT: u32 = 1 << 7;
}

/// A prefix table: IPv4 at +0, IPv6 trees at +4.
pub mod table {
    /// Offset of the 65,536-word root.
    pub const V4_ROOT: u32 = 0;
    /// Offset of the nodes, in u64 units.
    pub const V4_NODES: u32 = 1;
    /// Offset of the values.
    pub const V4_VALUES: u32 = 2;
    /// Offset of the boundaries finer than /64: {keys in u64 units, count} each.
    pub const V6_DEEP: u32 = 3;
    /// Four trees, one for each value of the two highest address bits.
    pub const V6_TREES: u32 = 4;
    pub const TREE_WORDS: u32 = 16;
    /// In a tree: number of levels, offset of the values, then the start of each level in u64 units.
    pub const DEPTH: u32 = 0;
    pub const VALUES: u32 = 1;
    pub const LEVELS: u32 = 2;
    pub const MAX_DEPTH: u32 = 8;
}

/// Root and value words of the IPv4 table: this bit set = a class, clear = a node number.
pub const LEAF: u32 = 1 << 31;
/// Value words of the IPv6 table: this bit set = index into the table of finer boundaries.
pub const DEEP: u32 = 1 << 31;
/// A finer table has at most this many boundaries.
pub const DEEP_STEPS: u32 = 16;

/// Classes from here on say how to find the IPv4 address inside an IPv6 one.
pub mod embedded {
    pub const FIRST: u16 = 0xfff0;
    /// RFC 6052 /96 (64:ff9b::/96 and the site's): the low 32 bits.
    pub const NAT64: u16 = 0xfff0;
    /// RFC 3056, 2002::/16: bits 16 to 47.
    pub const SIX_TO_FOUR: u16 = 0xfff1;
    /// RFC 4380, 2001::/32: server in bits 32 to 63, client in the inverted low 32 bits.
    pub const TEREDO: u16 = 0xfff2;
    /// RFC 4291, ::ffff:0:0/96: the low 32 bits; on the wire it is malformed.
    pub const MAPPED: u16 = 0xfff3;
}

/// Decision words.
pub mod decision {
    pub const REASON: u32 = 0xff;
    pub const ALLOW: u32 = 1 << 8;
    /// Neighbour discovery, DHCP and group membership in their exact form pass to this class.
    pub const LINK: u32 = 1 << 9;
    /// The high 16 bits are a chain header's index, else a rule id.
    pub const CHAIN: u32 = 1 << 10;
    /// Rule id, or with `CHAIN` the index of a chain header.
    pub const HIGH_SHIFT: u32 = 16;

    /// Words of a chain header: offset of the first entry, count, final decision, 1 = some entry expires.
    pub const HEADER_WORDS: u32 = 4;
    /// Words of a chain entry: decision, protocol | any << 8, low port | high port << 16, Unix second
    /// from which on it is void (`u32::MAX` = never).
    pub const ENTRY_WORDS: u32 = 4;
    /// Longest chain: conditional rules that overlap at one address, one per port range.
    pub const MAX_CHAIN: u32 = 64;
    /// `protocol` word: any protocol.
    pub const ANY_PROTOCOL: u32 = 1 << 8;
}

/// Tag entries: word 0.
pub mod tag {
    pub const TIER: u32 = 0xff;
    pub const MODE_SHIFT: u32 = 8;
    pub const AUDIT: u32 = 1;
    pub const ENFORCE: u32 = 2;
    pub const RESPONSE_SHIFT: u32 = 16;
    pub const REJECT: u32 = 1;
    pub const DROP: u32 = 2;
    pub const REPLIES: u32 = 1 << 24;
    /// The socket hooks may refuse: no selector that only packets show can lead to a freer tag.
    pub const EARLY: u32 = 1 << 25;
    /// Datagrams may be answers: this tag, or one that only packets show, has `replies = "allow"`.
    pub const ANSWERS: u32 = 1 << 26;
    pub const WORDS: u32 = 4;
}

/// Selector value: order by falling rank in the high byte, slot in the low one; the smallest wins.
pub const NO_TAG: u32 = 0xffff;

/// How the words of an image are read: from a BPF map or from memory.
pub trait Words {
    /// Word `index`; any value for an index outside the image.
    fn word(&self, index: u32) -> u32;
    /// The u64 at word `2 * index`.
    fn dword(&self, index: u32) -> u64;

    /// Always zero. Added to a value, it makes the verifier forget what it learned about it, so that all ways
    /// through a loop or a parser end in one state and are walked once.
    #[inline(always)]
    fn zero(&self) -> u32 {
        self.word(header::ZERO)
    }

    /// Class of an IPv4 destination, host byte order. Overridden only to measure the image's own
    /// lookup against another structure in the same program.
    #[inline(always)]
    fn class_v4(&self, address: u32) -> u16 {
        lookup_v4(self, header::DESTINATIONS, address)
    }

    /// Class of an IPv6 destination, upper and lower half; overridden as above.
    #[inline(always)]
    fn class_v6(&self, high: u64, low: u64) -> u16 {
        lookup_v6(self, header::DESTINATIONS, high, low)
    }
}

impl Words for [u32] {
    #[inline(always)]
    fn word(&self, index: u32) -> u32 {
        self.get(index as usize).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn dword(&self, index: u32) -> u64 {
        let low = self.word(index.wrapping_mul(2));
        let high = self.word(index.wrapping_mul(2).wrapping_add(1));
        u64::from(low) | u64::from(high) << 32
    }
}
