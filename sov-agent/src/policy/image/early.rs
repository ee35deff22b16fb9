//! What the socket hooks may do on behalf of the packet hooks.
//!
//! They see neither source, DSCP, VLAN nor the mark that a packet will have. They refuse a call only where no
//! selector of those kinds could lead to a tag that would let the packet pass.

use super::spec::{ImageSpec, Mode, Response, TagSpec};
use sov_common::image::tag;

/// [`tag::EARLY`] and [`tag::ANSWERS`] for a tag.
pub(super) fn bits(spec: &ImageSpec, own: &TagSpec) -> u32 {
    let fallback = spec.untagged == Some(own.slot);
    // Any hidden selector beats the tag of untagged traffic, else only a higher rank does.
    let rivals = spec.tags.iter().filter(|other| {
        other.slot != own.slot && is_hidden(spec, other.slot) && (fallback || other.rank > own.rank)
    });
    let (mut early, mut answers) =
        (own.mode == Mode::Enforce && own.response == Response::Reject, own.replies);
    for rival in rivals {
        // The lattice proves that an enforcing tag of higher rank refuses what this one refuses.
        early &= rival.mode == Mode::Enforce && rival.rank > own.rank;
        answers |= rival.replies;
    }
    (if early { tag::EARLY } else { 0 }) | (if answers { tag::ANSWERS } else { 0 })
}

/// The tag has a selector that a socket call cannot be matched against.
fn is_hidden(spec: &ImageSpec, slot: u8) -> bool {
    let selectors = &spec.selectors;
    selectors.marks.iter().any(|(.., to)| *to == slot)
        || selectors.dscps.iter().any(|(_, to)| *to == slot)
        || selectors.vlans.iter().any(|(_, to)| *to == slot)
        || selectors.sources_v4.iter().any(|(_, to)| *to == Some(slot))
        || selectors.sources_v6.iter().any(|(_, to)| *to == Some(slot))
}
