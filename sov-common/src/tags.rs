//! Which tag a packet has: every selector that matches names one, the highest rank wins.

use crate::{
    classify::Address,
    image::{NO_TAG, Words, flags, header},
    lookup::{lookup_key, lookup_v4, lookup_v6},
};

/// What selectors look at. Asked only for the kinds that the image uses.
pub trait Origin {
    /// Interface that the packet came in by; 0 = local.
    fn interface(&self) -> u32;
    /// cgroup v2 id of the sender's ancestor at `level` (root = 0); 0 = none.
    fn cgroup(&self, level: u32) -> u64;
    /// `None` where the packet has no local socket.
    fn uid(&self) -> Option<u32>;
    fn mark(&self) -> u32;
    /// `None` where it is not known yet (an unbound socket).
    fn source(&self) -> Option<Address>;
    fn dscp(&self) -> Option<u8>;
    /// VLAN id, 1 to 4094, of the outermost tag that names one; 0 = none.
    fn vlan(&self) -> u32;
    /// A packet whose source, DSCP and VLAN could not be read: it may belong to any tag that they select.
    fn blind(&self) -> bool;
}

/// Deepest cgroup level that a selector may name.
pub const MAX_LEVELS: u32 = 12;

/// Slot of the winning tag, or `None` for untagged traffic.
#[inline(always)]
pub fn tag_of<W: Words + ?Sized>(image: &W, origin: &impl Origin) -> Option<u8> {
    let used = image.kinds();
    // The smallest selector value has the highest rank.
    let mut best = NO_TAG + image.zero();
    if used & flags::INTERFACE != 0 {
        let interface = origin.interface();
        if interface != 0 {
            best = min(best, lookup_key(image, header::INTERFACES, interface as u64));
        }
    }
    if used & flags::CGROUP != 0 {
        best = min(best, by_cgroup(image, origin));
    }
    if used & flags::SOURCE != 0 {
        let value = match origin.source() {
            Some(Address::V4(a)) => lookup_v4(image, header::SOURCES, a),
            Some(Address::V6(high, low)) => lookup_v6(image, header::SOURCES, high, low),
            None => NO_TAG as u16,
        };
        best = min(best, value as u32);
    }
    if used & flags::VLAN != 0 {
        let vlan = origin.vlan();
        if vlan != 0 {
            best = min(best, lookup_key(image, header::VLANS, vlan as u64));
        }
    }
    if used & (flags::SOURCE | flags::DSCP | flags::VLAN) != 0 && origin.blind() {
        best = min(best, image.word(header::BLIND_TAG));
    }
    if used & flags::UID != 0
        && let Some(uid) = origin.uid()
    {
        best = min(best, lookup_key(image, header::UIDS, uid as u64));
    }
    if used & flags::DSCP != 0
        && let Some(dscp) = origin.dscp()
    {
        let table = image.word(header::DSCPS);
        best = min(best, image.word(table.wrapping_add(dscp as u32 & 63)));
    }
    if used & flags::MARK != 0 {
        best = min(best, by_mark(image, origin.mark()));
    }
    if best == NO_TAG {
        best = image.word(header::DEFAULT_TAG);
    }
    // One state from here on, whichever selectors were asked.
    best += image.zero();
    if best == NO_TAG { None } else { Some((best & 63) as u8) }
}

#[inline(always)]
fn by_cgroup<W: Words + ?Sized>(image: &W, origin: &impl Origin) -> u32 {
    let levels = image.word(header::CGROUP_LEVELS);
    let mut best = NO_TAG;
    let mut level = 0;
    while level < MAX_LEVELS {
        if levels >> level & 1 != 0 {
            let id = origin.cgroup(level);
            if id != 0 {
                best = min(best, lookup_key(image, header::CGROUPS, id));
            }
        }
        level += 1;
    }
    best
}

/// The list is in order of rank: the first that matches is the one.
#[inline(always)]
fn by_mark<W: Words + ?Sized>(image: &W, mark: u32) -> u32 {
    let list = image.word(header::MARKS);
    let count = image.word(header::MARKS + 1);
    let mut i = 0;
    while i < MAX_MARKS {
        if i >= count {
            break;
        }
        let entry = list.wrapping_add(i * 4);
        if mark & image.word(entry.wrapping_add(1)) == image.word(entry) {
            return image.word(entry.wrapping_add(2));
        }
        i += 1;
    }
    NO_TAG
}

/// Marks are compared one after the other for every packet.
pub const MAX_MARKS: u32 = 32;

/// Of values up to 16 bits. Without branches: a comparison teaches the verifier two ranges each time,
/// and no two ways through a loop would look alike to it.
#[inline(always)]
fn min(a: u32, b: u32) -> u32 {
    let smaller = b.wrapping_sub(a) >> 31;
    a ^ ((a ^ b) & smaller.wrapping_neg())
}
