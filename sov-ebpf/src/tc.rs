//! tc hooks: egress of uplinks, ingress of workload-facing interfaces, and the watch for connections
//! that the other side opens.

use aya_ebpf::{
    EbpfContext as _,
    bindings::TC_ACT_SHOT,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skb_cgroup_id},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::{debug, info};
use sov_common::{
    abi::{Event, FlowKey, Hook, ReplyKey, UNTAGGED},
    classify::{Decision, TagEntry},
    image::{Words, header},
    judge::judge,
    parse::{Frame, Packet as _, Parsed, kind, parse, protocol},
    tags::tag_of,
    verdict::{Reason, Verdict},
};

use crate::{
    emit::{self, mapped},
    maps::{Image, SOV_PASS, SOV_REPLIES, Scratch},
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
    // SAFETY: this CPU's own working memory, see its definition.
    let parsed = unsafe { &mut (*scratch).parsed };
    parse_skb(ctx, ethernet, image.zero(), parsed);
    let ingress = matches!(hook, Hook::TcIngress);
    let origin = SkbOrigin { skb: Skb(ctx), parsed, ingress };
    let skb = Skb(ctx);
    let raw = skb.raw();
    let packets = if raw.gso_segs > 1 { raw.gso_segs as u64 } else { 1 };
    let bytes = raw.len.saturating_sub(if ethernet { 14 } else { 0 }) as u64;
    let Some(slot) = tag_of(&image, &origin) else {
        emit::count(UNTAGGED, 0, Verdict::Allow, packets, bytes);
        return SOV_PASS.load();
    };
    let tag = TagEntry::read(&image, slot);
    let decision = judge(&image, tag.tier(), parsed, || now(&image));
    if decision.allow {
        emit::count(slot, decision.reason, Verdict::Allow, packets, bytes);
        return SOV_PASS.load();
    }
    let refusal = Refusal { decision, slot, hook, packets, bytes };
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

/// What the slow path needs besides the packet.
struct Refusal {
    decision: Decision,
    slot: u8,
    hook: Hook,
    packets: u64,
    bytes: u64,
}

/// The slow path: count, record, act.
#[inline(never)]
fn refuse<W: Words + Copy>(
    ctx: &TcContext,
    image: W,
    scratch: *mut Scratch,
    refusal: &Refusal,
) -> i32 {
    // SAFETY: this CPU's own working memory, two fields of it.
    let (parsed, event) = unsafe { (&(*scratch).parsed, &mut (*scratch).event) };
    let Refusal { decision, slot, hook, packets, bytes } = *refusal;
    let skb = Skb(ctx);
    let raw = skb.raw();
    let tag = TagEntry::read(&image, slot);
    // An answer is a packet that was understood: what hides its nature is refused as any other.
    let plain = parsed.kind == kind::IP && decision.reason != Reason::Tunnel as u8;
    if tag.replies() && plain && is_reply(parsed) {
        emit::count(slot, Reason::Reply as u8, Verdict::Allow, packets, bytes);
        return SOV_PASS.load();
    }
    let verdict = decision.verdict(tag.enforce());
    let egress = matches!(hook, Hook::TcEgress);
    *event = Event {
        key: FlowKey {
            src: mapped(parsed.source()),
            dst: mapped(parsed.destination()),
            sport: parsed.sport as u16,
            dport: parsed.dport as u16,
            proto: parsed.protocol as u8,
            tag: slot,
            verdict: verdict as u8,
            reason: decision.reason,
            ifindex: raw.ifindex,
            hook: hook as u8,
            pad: [0; 3],
        },
        // SAFETY: no arguments.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        packets,
        bytes,
        // SAFETY: the context is a __sk_buff.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        cgroup: 0,
        generation: image.word(header::GENERATION),
        class: decision.class,
        rule: decision.rule,
        pid: 0,
        uid: 0,
        comm: [0; 16],
        ingress_ifindex: raw.ingress_ifindex,
        has_owner: 0,
        socket_type: 0,
        src_mac: [0; 6],
        mark: raw.mark,
        ethertype: parsed.ethertype as u16,
        pad: [0; 6],
    };
    if egress {
        // SAFETY: as above.
        event.cgroup = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
    } else if let Some([high, low]) = skb.words_at::<2>(6) {
        let (h, l) = (high.to_be_bytes(), low.to_be_bytes());
        event.src_mac = [h[0], h[1], h[2], h[3], l[0], l[1]];
    }
    emit::blocked(event);
    if matches!(verdict, Verdict::Block) {
        info!(ctx, "tag {} verdict block reason {}", slot, emit::word(decision.reason));
        return TC_ACT_SHOT as i32;
    }
    debug!(ctx, "tag {} verdict would_block reason {}", slot, emit::word(decision.reason));
    SOV_PASS.load()
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

const SYN: u32 = 2;
const ACK: u32 = 16;

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

#[inline(always)]
fn is_reply(parsed: &Parsed) -> bool {
    let answers = match parsed.protocol {
        protocol::TCP | protocol::UDP => true,
        protocol::ICMP => parsed.dport == 0,
        protocol::ICMPV6 => parsed.dport == 129 << 8,
        _ => false,
    };
    let key = reply_key(parsed, false);
    answers && SOV_REPLIES.get_ptr(&key).is_some()
}

/// The same key for a packet of the other side and for the answer to it.
#[inline(always)]
fn reply_key(parsed: &Parsed, inbound: bool) -> ReplyKey {
    let ports = parsed.protocol == protocol::TCP || parsed.protocol == protocol::UDP;
    let (sport, dport) = if ports { (parsed.sport, parsed.dport) } else { (0, 0) };
    let (remote, local, remote_port, local_port) = if inbound {
        (parsed.source(), parsed.destination(), sport, dport)
    } else {
        (parsed.destination(), parsed.source(), dport, sport)
    };
    ReplyKey {
        remote: mapped(remote),
        local: mapped(local),
        remote_port: remote_port as u16,
        local_port: local_port as u16,
        proto: parsed.protocol as u8,
        pad: [0; 3],
    }
}
