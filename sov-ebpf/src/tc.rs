//! tc hooks: egress of uplinks, ingress of workload-facing interfaces, and the watch for connections
//! that the other side opens.

use aya_ebpf::{
    bindings::TC_ACT_SHOT, helpers::generated::bpf_ktime_get_boot_ns, macros::classifier,
    programs::TcContext,
};
use sov_common::{
    abi::{Hook, UNTAGGED},
    classify::TagEntry,
    image::{Words, header},
    judge::judge,
    parse::{Frame, Parsed, parse, protocol},
    tags::tag_of,
    verdict::Verdict,
};

use crate::{
    emit,
    maps::{Image, SOV_PASS, SOV_REPLIES, Scratch},
    refuse::{ACK, Refusal, SYN, refuse, reply_key},
    skb::{Skb, SkbOrigin},
};

#[classifier]
fn sov_egress(ctx: TcContext) -> i32 {
    live(&ctx, Hook::TcEgress, true)
}

/// Interfaces without a link-layer header (tun, wireguard, ipip, sit, gre, ppp).
#[classifier]
fn sov_egress_l3(ctx: TcContext) -> i32 {
    live(&ctx, Hook::TcEgress, false)
}

#[classifier]
fn sov_ingress(ctx: TcContext) -> i32 {
    live(&ctx, Hook::TcIngress, true)
}

#[classifier]
fn sov_ingress_l3(ctx: TcContext) -> i32 {
    live(&ctx, Hook::TcIngress, false)
}

#[inline(always)]
fn live(ctx: &TcContext, hook: Hook, ethernet: bool) -> i32 {
    // The agent attaches only after an image is live; without one nothing may leave.
    let Some(image) = Image::live() else { return TC_ACT_SHOT as i32 };
    run(ctx, image, hook, ethernet)
}

/// The whole way of a packet. The image is a parameter for `bench.rs` alone, which measures this code
/// with another lookup in its place.
#[inline(always)]
pub(crate) fn run<W: Words + Copy>(ctx: &TcContext, image: W, hook: Hook, ethernet: bool) -> i32 {
    let Some(scratch) = Scratch::mine() else { return TC_ACT_SHOT as i32 };
    judged(ctx, image, scratch, hook, ethernet)
}

/// Judges with the caller's working memory: nobody else may use it until this returns.
#[inline(always)]
pub(crate) fn judged<W: Words + Copy>(
    ctx: &TcContext,
    image: W,
    scratch: *mut Scratch,
    hook: Hook,
    ethernet: bool,
) -> i32 {
    // SAFETY: the caller's own working memory.
    let parsed = unsafe { &mut (*scratch).parsed };
    parse_skb(ctx, ethernet, image.zero(), parsed);
    let ingress = matches!(hook, Hook::TcIngress);
    let origin = SkbOrigin { skb: Skb(ctx), parsed, ingress };
    let skb = Skb(ctx);
    let raw = skb.raw();
    let packets = if raw.gso_segs > 1 { raw.gso_segs as u64 } else { 1 };
    let bytes = raw.len.saturating_sub(if ethernet { 14 } else { 0 }) as u64;
    let Some(slot) = tag_of(&image, &origin) else {
        emit::count_at(hook, UNTAGGED, 0, Verdict::Allow, packets, bytes);
        return SOV_PASS.load();
    };
    let tag = TagEntry::read(&image, slot);
    let decision = judge(&image, tag.tier(), parsed, || now(&image));
    if decision.allow {
        emit::count_at(hook, slot, decision.reason, Verdict::Allow, packets, bytes);
        return SOV_PASS.load();
    }
    let refusal = Refusal { decision, slot, hook, ethernet, packets, bytes };
    refuse(ctx, image, scratch, &refusal)
}

/// Unix seconds by the kernel's clock; the offset was set when the image was made live.
#[inline(always)]
pub(crate) fn now<W: Words>(image: &W) -> u32 {
    // SAFETY: no arguments.
    let seconds = unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000;
    (seconds as u32).wrapping_add(image.word(header::EPOCH))
}

#[inline(always)]
fn parse_skb(ctx: &TcContext, ethernet: bool, zero: u32, out: &mut Parsed) {
    let skb = Skb(ctx);
    let raw = skb.raw();
    let frame =
        Frame { ethernet, protocol: u16::from_be(raw.protocol as u16), gso: raw.gso_size != 0 };
    parse(&skb, &frame, zero, out);
}

/// Remembers who spoke first. Attached to uplinks only while a tag has `replies = "allow"`.
#[classifier]
fn sov_inbound(ctx: TcContext) -> i32 {
    inbound(&ctx, true)
}

#[classifier]
fn sov_inbound_l3(ctx: TcContext) -> i32 {
    inbound(&ctx, false)
}

#[inline(always)]
fn inbound(ctx: &TcContext, ethernet: bool) -> i32 {
    let Some(image) = Image::live() else { return SOV_PASS.load() };
    let Some(scratch) = Scratch::mine() else { return SOV_PASS.load() };
    // SAFETY: this CPU's own working memory, see its definition.
    let parsed = unsafe { &mut (*scratch).parsed };
    parse_skb(ctx, ethernet, image.zero(), parsed);
    let opens = match parsed.protocol {
        protocol::TCP => parsed.tcp_flags & (SYN | ACK) == SYN,
        // Whoever speaks first where answers would be blocked is the one who opened.
        protocol::UDP => true,
        protocol::ICMP => parsed.dport == 8 << 8,
        protocol::ICMPV6 => parsed.dport == 128 << 8,
        _ => false,
    };
    if opens {
        let key = reply_key(parsed, true);
        // SAFETY: no arguments.
        let time = unsafe { bpf_ktime_get_boot_ns() };
        // A full table evicts its oldest entry: an answer is blocked, never a transfer passed.
        let _ = SOV_REPLIES.insert(&key, &time, 0);
    }
    SOV_PASS.load()
}
