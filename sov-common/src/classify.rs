//! THE classifier: (tag, destination, protocol, port, time) to (verdict, reason, class, rule).
//!
//! The kernel programs, `explain`, and the tests all run this code on the same bytes. It reads an
//! image and nothing else; it does not parse packets ([`crate::parse`]) and does not count.

use crate::{
    image::{Words, decision, embedded, header, tag},
    verdict::{Reason, Verdict},
};

/// A destination, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(u32),
    /// Upper and lower half.
    V6(u64, u64),
}

/// What the classifier needs to know of a packet or a socket call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    pub address: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// Host byte order; 0 where the protocol has none or a fragment hides it.
    pub port: u16,
    /// Neighbour discovery, DHCP or group membership in its exact form.
    pub link: bool,
    /// Seen on the wire, where IPv4-mapped addresses have no place. A socket call may use them.
    pub wire: bool,
}

/// The outcome before the tag's mode is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allow: bool,
    /// [`Reason`] number.
    pub reason: u8,
    pub class: u16,
    /// Rule id, 0 = none.
    pub rule: u16,
}

impl Decision {
    #[inline(always)]
    pub const fn block(reason: Reason) -> Self {
        Self { allow: false, reason: reason as u8, class: 0, rule: 0 }
    }

    /// The verdict under a tag's mode word.
    #[inline(always)]
    pub const fn verdict(&self, enforce: bool) -> Verdict {
        if self.allow {
            Verdict::Allow
        } else if enforce {
            Verdict::Block
        } else {
            Verdict::WouldBlock
        }
    }
}

/// A tag's entry in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagEntry(pub u32);

impl TagEntry {
    #[inline(always)]
    pub fn read<W: Words + ?Sized>(image: &W, slot: u8) -> Self {
        Self(image.word(header::TAGS + (slot as u32 & 63) * tag::WORDS))
    }

    #[inline(always)]
    pub const fn tier(self) -> u32 {
        self.0 & tag::TIER
    }

    /// Anything but an explicit `audit` enforces.
    #[inline(always)]
    pub const fn enforce(self) -> bool {
        (self.0 >> tag::MODE_SHIFT) & 0xff != tag::AUDIT
    }

    #[inline(always)]
    pub const fn reject(self) -> bool {
        (self.0 >> tag::RESPONSE_SHIFT) & 0xff == tag::REJECT
    }

    /// The socket hooks may refuse on behalf of the packet hooks.
    #[inline(always)]
    pub const fn early(self) -> bool {
        self.0 & tag::EARLY != 0
    }

    /// A datagram may be an answer that the packet hooks let pass.
    #[inline(always)]
    pub const fn answers(self) -> bool {
        self.0 & tag::ANSWERS != 0
    }

    #[inline(always)]
    pub const fn replies(self) -> bool {
        self.0 & tag::REPLIES != 0
    }
}

/// Judges one destination for one tier. `now` gives Unix seconds and is asked only where a rule expires.
#[inline(always)]
pub fn classify<W: Words + ?Sized>(
    image: &W,
    tier: u32,
    to: &Destination,
    now: impl Fn() -> u32 + Copy,
) -> Decision {
    let class = match to.address {
        Address::V4(address) => image.class_v4(address),
        Address::V6(high, low) => {
            let class = image.class_v6(high, low);
            if class < embedded::FIRST {
                class
            } else {
                let (address, other) = match class {
                    embedded::SIX_TO_FOUR => ((high >> 16) as u32, None),
                    // Both ends of the relay see the data; the server is judged first.
                    embedded::TEREDO => (high as u32, Some(!(low as u32))),
                    embedded::MAPPED if to.wire => return Decision::block(Reason::Malformed),
                    _ => (low as u32, None),
                };
                if let Some(client) = other {
                    let server = image.class_v4(address);
                    let decision = decide(image, tier, server, to, now);
                    if !decision.allow {
                        return decision;
                    }
                    image.class_v4(client)
                } else {
                    image.class_v4(address)
                }
            }
        }
    };
    decide(image, tier, class, to, now)
}

/// The decision of a tier about a class.
#[inline(always)]
fn decide<W: Words + ?Sized>(
    image: &W,
    tier: u32,
    class: u16,
    to: &Destination,
    now: impl Fn() -> u32 + Copy,
) -> Decision {
    let classes = image.word(header::CLASSES);
    let row = image.word(header::DECISIONS).wrapping_add(tier.wrapping_mul(classes));
    let mut word = image.word(row.wrapping_add(class as u32));
    if word & (decision::LINK | decision::CHAIN) != 0 {
        if word & decision::LINK != 0 && to.link {
            return Decision { allow: true, reason: Reason::Scope as u8, class, rule: 0 };
        }
        if word & decision::CHAIN != 0 {
            word = walk(image, word >> decision::HIGH_SHIFT, to, now);
        }
    }
    // A word that no builder wrote (0) is a block without a policy behind it.
    if word == 0 {
        return Decision { allow: false, reason: Reason::NoPolicy as u8, class, rule: 0 };
    }
    word = word.wrapping_add(image.zero());
    Decision {
        allow: word & decision::ALLOW != 0,
        reason: (word & decision::REASON) as u8,
        class,
        rule: (word >> decision::HIGH_SHIFT) as u16,
    }
}

/// Conditional rules of one class, in order of precedence; the first that matches speaks.
///
/// Without branches inside: the verifier would walk every combination of outcomes.
#[inline(always)]
fn walk<W: Words + ?Sized>(
    image: &W,
    chain: u32,
    to: &Destination,
    now: impl Fn() -> u32 + Copy,
) -> u32 {
    let head = image.word(header::CHAINS).wrapping_add(chain.wrapping_mul(decision::HEADER_WORDS));
    let first = image.word(head);
    let count = image.word(head.wrapping_add(1));
    let otherwise = image.word(head.wrapping_add(2));
    let now = if image.word(head.wrapping_add(3)) != 0 { now() } else { 0 };
    let opaque = Opaque((image.zero() as u64) << 32);
    let port = to.port as u32;
    let (mut found, mut done, mut other_port) = (0u32, 0u64, 0u64);
    let mut i = 0;
    while i < decision::MAX_CHAIN {
        if i >= count || done != 0 {
            break;
        }
        let entry = first.wrapping_add(i.wrapping_mul(decision::ENTRY_WORDS));
        let word = image.word(entry);
        let protocol = image.word(entry.wrapping_add(1));
        let ports = image.word(entry.wrapping_add(2));
        let until = image.word(entry.wrapping_add(3));
        // An entry without expiry holds the last second there is.
        let valid = opaque.below(now, until);
        let any = (protocol >> 8) as u64 & 1;
        let other_protocol = opaque.below(0, (protocol & 0xff) ^ to.protocol as u32) & (any ^ 1);
        let outside = opaque.below(port, ports & 0xffff) | opaque.below(ports >> 16, port);
        done = valid & ((other_protocol | outside) ^ 1);
        found = word;
        other_port |= valid & (word >> 8) as u64;
        i += 1;
    }
    if done & 1 != 0 {
        return found;
    }
    // A rule that denies the address speaks for itself.
    let denied = otherwise & decision::REASON == Reason::DenyRule as u32;
    if other_port & 1 != 0 && !denied && otherwise & decision::ALLOW == 0 {
        return (otherwise & !decision::REASON) | Reason::Port as u32;
    }
    otherwise
}

/// Comparison by subtraction. The zero inside keeps the compiler from knowing that 32-bit values
/// cannot overflow, and so from turning the sign back into a branch.
#[derive(Clone, Copy)]
struct Opaque(u64);

impl Opaque {
    /// 1 if `a < b`.
    #[inline(always)]
    fn below(self, a: u32, b: u32) -> u64 {
        (a as u64 + self.0).wrapping_sub(b as u64) >> 63
    }
}
