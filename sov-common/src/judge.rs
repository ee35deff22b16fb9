//! One packet, one decision: what the parser says, the tag's tier and the classifier together.

use crate::{
    classify::{Decision, Destination, classify},
    image::Words,
    parse::{Parsed, kind, tunnel_kind},
    verdict::Reason,
};

/// Judges a parsed packet for a tier: the outer destination, then what is inside a tunnel.
#[inline(always)]
pub fn judge<W: Words + ?Sized>(
    image: &W,
    tier: u32,
    packet: &Parsed,
    now: impl Fn() -> u32 + Copy,
) -> Decision {
    if packet.kind == kind::ARP {
        return Decision { allow: true, reason: Reason::Scope as u8, class: 0, rule: 0 };
    }
    if packet.kind != kind::IP {
        return Decision { allow: false, reason: packet.kind as u8, class: 0, rule: 0 };
    }
    let outer = Destination {
        address: packet.destination(),
        protocol: packet.protocol as u8,
        port: packet.dport as u16,
        link: packet.link != 0,
        wire: true,
    };
    let decision = classify(image, tier, &outer, now);
    if !decision.allow || packet.tunnel == tunnel_kind::NONE {
        return decision;
    }
    if packet.tunnel != tunnel_kind::READABLE {
        // Only a rule that names the endpoint vouches for what cannot be read.
        let named = decision.reason == Reason::AllowRule as u8
            || decision.reason == Reason::Exception as u8
            || decision.reason == Reason::Scope as u8;
        return if named {
            decision
        } else {
            Decision { allow: false, reason: Reason::Tunnel as u8, ..decision }
        };
    }
    let inner = Destination {
        address: packet.inside(),
        protocol: packet.inner_protocol as u8,
        port: packet.inner_port as u16,
        link: false,
        wire: true,
    };
    judge_inner(image, tier, &inner, now)
}

/// A function of its own: the lookup's code is in the program twice, not four times.
#[inline(never)]
fn judge_inner<W: Words + ?Sized>(
    image: &W,
    tier: u32,
    inner: &Destination,
    now: impl Fn() -> u32 + Copy,
) -> Decision {
    classify(image, tier, inner, now)
}
