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

/// Smallest slot for an image, and the kernel's until a larger one is needed: the embedded data with a
/// plain policy need 1.5 MiB. Kernels that limit a map value to KMALLOC_MAX_SIZE take up to 4 MiB.
pub const MIN_SLOT_WORDS: u32 = 1 << 19;
/// Largest slot: 825,000 prefixes of each family, scattered at random, need 37 MiB.
pub const MAX_SLOT_WORDS: u32 = 1 << 24;

/// Words of the slot for an image of `words`: a power of two. `None` if there is no slot that large.
pub const fn slot_words(words: usize) -> Option<u32> {
    if words > MAX_SLOT_WORDS as usize {
        return None;
    }
    let least = (words as u32).next_power_of_two();
    Some(if least < MIN_SLOT_WORDS { MIN_SLOT_WORDS } else { least })
}

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
    /// Highest-ranked tag that source prefixes, DSCP or VLAN select, for frames that hide them.
    pub const BLIND_TAG: u32 = 23;
    /// Length of the metadata in bytes, after the kernel's words.
    pub const METADATA_BYTES: u32 = 21;
    /// SHA-256 of the policy source and its data (8 words).
    pub const POLICY_HASH: u32 = 24;
    /// SHA-256 of the image with this field, `GENERATION` and `EPOCH` zero, metadata included.
    pub const CONTENT_HASH: u32 = 32;
    /// Hash table of selectors by VLAN id.
    pub const VLANS: u32 = 40;
    /// Selector kinds that the programs which read this image were loaded with; set when it is made
    /// live, not part of the content hash.
    pub const KINDS: u32 = 42;
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
    pub const VLAN: u32 = 1 << 8;
    /// The kinds of selectors.
    pub const SELECTORS: u32 = CGROUP | MARK | SOURCE | DSCP | INTERFACE | UID | VLAN;
}

/// A prefix table: IPv4 at +0, IPv6 at +8. Both hold *codes*: 32 >> width bits each, packed from the low
/// end of a word. A code from `FIRST` to `FIRST + COUNT - 1` leads on to node or table `code - FIRST`;
/// any other is a class.
pub mod table {
    /// IPv4: offset of the 65,536 codes of the root.
    pub const V4_ROOT: u32 = 0;
    /// Offset of the nodes, in lines of 16 words.
    pub const V4_NODES: u32 = 1;
    /// Offset of the nodes' codes.
    pub const V4_CODES: u32 = 2;
    /// 0 = codes of 32 bits, 1 = of 16 bits.
    pub const V4_WIDTH: u32 = 3;
    /// First code that is a node, and how many there are.
    pub const V4_FIRST: u32 = 4;
    pub const V4_COUNT: u32 = 5;
    /// IPv6: as above, for tables.
    pub const V6_WIDTH: u32 = 8;
    pub const V6_FIRST: u32 = 9;
    pub const V6_COUNT: u32 = 10;
    /// Offset of the references to the tables, one word each.
    pub const V6_TABLES: u32 = 11;
    /// Four references, one for each value of the two highest address bits.
    pub const V6_ROOTS: u32 = 12;

    /// A reference: the place in u64 units in the low bits; above, how many u64 words of keys are there,
    /// with the codes after them. 0 = a tree's descriptor is there.
    pub const LIST_SHIFT: u32 = 28;
    pub const PLACE: u32 = (1 << LIST_SHIFT) - 1;
    /// Longest list, in u64 words of two keys.
    pub const MAX_LIST: u32 = 8;

    /// In a tree's descriptor: number of levels, offset of the codes, then the start of each level in
    /// lines of 16 words.
    pub const DEPTH: u32 = 0;
    pub const CODES: u32 = 1;
    pub const LEVELS: u32 = 2;
    pub const MAX_DEPTH: u32 = 6;
    pub const TREE_WORDS: u32 = 8;

    /// Keys are 31 bits wide. They are stored less one, so that this one is above every key.
    pub const KEY_BITS: u32 = 31;
    pub const PADDING: u32 = u32::MAX >> 1;
    /// Steps of 31 bits in the 126 bits below the two highest ones.
    pub const STEPS: u32 = 5;
}

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

    /// The two u64 at word `4 * index`.
    #[inline(always)]
    fn pair(&self, index: u32) -> [u64; 2] {
        let at = index.wrapping_mul(2);
        [self.dword(at), self.dword(at.wrapping_add(1))]
    }

    /// Sum of `of` over the eight u64 at word `16 * index`: one cache line, one bounds check. Each is read
    /// when it is needed: eight at once would not fit the registers.
    #[inline(always)]
    fn sum_line(&self, index: u32, of: impl Fn(u64) -> u64) -> u64 {
        let at = index.wrapping_mul(8);
        (0..8).fold(0, |sum, i| sum + of(self.dword(at.wrapping_add(i))))
    }

    /// Always zero. Added to a value, it makes the verifier forget what it learned about it, so that all ways
    /// through a loop or a parser end in one state and are walked once.
    #[inline(always)]
    fn zero(&self) -> u32 {
        self.word(header::ZERO)
    }

    /// Selector kinds that a packet is matched against. The kernel's programs know some of them for a
    /// constant: code of a kind that no policy uses is removed when they are loaded.
    #[inline(always)]
    fn kinds(&self) -> u32 {
        self.word(header::FLAGS)
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
