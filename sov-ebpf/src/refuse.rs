//! The slow path of the packet hooks: a packet that a policy blocks is counted, recorded, acted upon.
//! Nothing here runs for a packet that is allowed.

use aya_ebpf::{
    EbpfContext as _,
    bindings::TC_ACT_SHOT,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skb_cgroup_id},
    programs::TcContext,
};
use aya_log_ebpf::{debug, info};
use sov_common::{
    abi::{Event, FlowKey, Hook, ReplyKey},
    classify::{Decision, TagEntry},
    image::{Words, header},
    parse::{Packet, Parsed, kind, protocol},
    verdict::{Reason, Verdict},
};

use crate::{
    emit::{self, mapped},
    maps::{SOV_COUNTERS, SOV_PASS, SOV_REPLIES, Scratch},
    reject,
    skb::Skb,
};

/// What the slow path needs besides the packet.
pub(crate) struct Refusal {
    pub(crate) decision: Decision,
    pub(crate) slot: u8,
    pub(crate) hook: Hook,
    pub(crate) ethernet: bool,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// [`account`] says: turn the packet into an answer. No TC_ACT_* has this number.
const ANSWER: i32 = 100;

/// The slow path: count, record, act.
#[inline(always)]
pub(crate) fn refuse<W: Words + Copy>(
    ctx: &TcContext,
    image: W,
    scratch: *mut Scratch,
    refusal: &Refusal,
) -> i32 {
    let action = account(ctx, image, scratch, refusal);
    if action != ANSWER {
        return action;
    }
    if matches!(refusal.hook, Hook::CgroupEgress) {
        // Never reached: `account` knows that the sender's call has the answer. Said again because the
        // compiler does not see it, and answering takes helpers that this hook has not.
        return TC_ACT_SHOT as i32;
    }
    // One after the other, not one in the other: all frames of the stack must fit into 512 bytes.
    let egress = matches!(refusal.hook, Hook::TcEgress);
    reject::answer_skb(ctx, scratch, refusal.ethernet, egress, image.zero())
}

#[inline(never)]
fn account<W: Words + Copy>(
    ctx: &TcContext,
    image: W,
    scratch: *mut Scratch,
    refusal: &Refusal,
) -> i32 {
    // SAFETY: this CPU's own working memory, three fields of it.
    let (parsed, event, clock) =
        unsafe { (&(*scratch).parsed, &mut (*scratch).event, &mut (*scratch).clock) };
    let Refusal { decision, slot, hook, packets, bytes, .. } = *refusal;
    let skb = Skb(ctx);
    let raw = skb.raw();
    let tag = TagEntry::read(&image, slot);
    if passes_as_reply(tag, parsed, decision.reason) {
        emit::count_at(hook, slot, Reason::Reply as u8, Verdict::Allow, packets, bytes);
        return SOV_PASS.load();
    }
    let verdict = decision.verdict(tag.enforce());
    identify(event, parsed, refusal, verdict, raw.ifindex);
    let alone = emit::is_alone(hook);
    if !emit::known(&SOV_COUNTERS, alone, &event.key, packets, bytes, || clock.coarse()) {
        let facts = Facts {
            ingress_ifindex: raw.ingress_ifindex,
            // SAFETY: the context is a __sk_buff.
            cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
            mark: raw.mark,
        };
        describe(event, parsed, &image, refusal, &facts, clock.exact());
        if matches!(hook, Hook::TcEgress | Hook::CgroupEgress) {
            // SAFETY: as above.
            event.cgroup = unsafe { bpf_skb_cgroup_id(ctx.skb.skb) };
        } else {
            event.src_mac = source_mac(&skb);
        }
        emit::record(event, image.zero());
    }
    if matches!(verdict, Verdict::Block) {
        info!(ctx, "tag {} verdict block reason {}", slot, emit::word(decision.reason));
        let answerable = tag.reject()
            && decision.reason != Reason::Malformed as u8
            && !matches!(hook, Hook::CgroupEgress);
        if answerable && reject::may_answer(clock.coarse()) {
            return ANSWER;
        }
        return TC_ACT_SHOT as i32;
    }
    debug!(ctx, "tag {} verdict would_block reason {}", slot, emit::word(decision.reason));
    SOV_PASS.load()
}

/// Fills the key: what the flow table is asked with. Nothing else of the event is touched.
#[inline(always)]
pub(crate) fn identify(
    event: &mut Event,
    parsed: &Parsed,
    refusal: &Refusal,
    verdict: Verdict,
    ifindex: u32,
) {
    let key = &mut event.key;
    key.src = mapped(parsed.source());
    key.dst = mapped(parsed.destination());
    key.sport = parsed.sport as u16;
    key.dport = parsed.dport as u16;
    key.proto = parsed.protocol as u8;
    key.tag = refusal.slot;
    key.verdict = verdict as u8;
    key.reason = refusal.decision.reason;
    key.ifindex = ifindex;
    key.hook = refusal.hook as u8;
    key.pad = [0; 3];
}

/// What the hook alone knows of a packet.
pub(crate) struct Facts {
    pub(crate) ingress_ifindex: u32,
    pub(crate) cookie: u64,
    pub(crate) mark: u32,
}

/// Fills the rest of the event, for the first packet of a flow.
#[inline(always)]
pub(crate) fn describe<W: Words>(
    event: &mut Event,
    parsed: &Parsed,
    image: &W,
    refusal: &Refusal,
    facts: &Facts,
    time_ns: u64,
) {
    let zero = image.zero() as u64;
    let rest = size_of::<FlowKey>() / 8..size_of::<Event>() / 8;
    for word in rest {
        // SAFETY: an event is words of eight bytes without padding. A zero that the compiler does not
        // know: else it calls memset, a loop over bytes.
        unsafe { *(&raw mut *event).cast::<u64>().add(word) = zero };
    }
    event.time_ns = time_ns;
    event.packets = refusal.packets;
    event.bytes = refusal.bytes;
    event.cookie = facts.cookie;
    event.generation = image.word(header::GENERATION);
    event.class = refusal.decision.class;
    event.rule = refusal.decision.rule;
    event.ingress_ifindex = facts.ingress_ifindex;
    event.mark = facts.mark;
    event.ethertype = parsed.ethertype as u16;
}

/// Zero where the frame is too short to have one.
#[inline(always)]
pub(crate) fn source_mac<P: Packet>(packet: &P) -> [u8; 6] {
    let Some([high, low]) = packet.words_at::<2>(6) else { return [0; 6] };
    let (h, l) = (high.to_be_bytes(), low.to_be_bytes());
    [h[0], h[1], h[2], h[3], l[0], l[1]]
}

/// An answer is a packet that was understood: what hides its nature is refused as any other.
#[inline(always)]
pub(crate) fn passes_as_reply(tag: TagEntry, parsed: &Parsed, reason: u8) -> bool {
    let plain = parsed.kind == kind::IP && reason != Reason::Tunnel as u8;
    tag.replies() && plain && is_reply(parsed)
}

/// TCP flags.
pub(crate) const SYN: u32 = 2;
pub(crate) const ACK: u32 = 16;

const SECOND: u64 = 1_000_000_000;
/// A conversation is over when nobody spoke for this long. TCP keep-alives start after two hours.
const IDLE_TCP: u64 = 24 * 60 * 60 * SECOND;
const IDLE: u64 = 180 * SECOND;

/// The packet answers somebody who spoke first, not too long ago.
#[inline(always)]
fn is_reply(parsed: &Parsed) -> bool {
    let answers = match parsed.protocol {
        // Opening is not answering, though the four numbers be those of an old conversation.
        protocol::TCP => parsed.tcp_flags & (SYN | ACK) != SYN,
        protocol::UDP => true,
        protocol::ICMP => parsed.dport == 0,
        protocol::ICMPV6 => parsed.dport == 129 << 8,
        _ => false,
    };
    let key = reply_key(parsed, false);
    if !answers {
        return false;
    }
    let Some(last) = SOV_REPLIES.get_ptr_mut(&key) else { return false };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let idle = if parsed.protocol == protocol::TCP { IDLE_TCP } else { IDLE };
    // SAFETY: a live map value; whichever CPU wrote last wrote a time of now. A time of another CPU may
    // be ahead of ours.
    if now.saturating_sub(unsafe { *last }) > idle {
        return false;
    }
    // A TCP conversation goes on with every packet; who asks by datagrams renews by asking.
    if parsed.protocol == protocol::TCP {
        // SAFETY: as above.
        unsafe { *last = now };
    }
    true
}

/// The same key for a packet of the other side and for the answer to it.
#[inline(always)]
pub(crate) fn reply_key(parsed: &Parsed, inbound: bool) -> ReplyKey {
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
