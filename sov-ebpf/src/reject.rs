//! Polite refusal: turns a blocked packet into the answer to it, at a limited rate.
//!
//! The answer comes from the destination that was blocked. At tc egress it enters the host again by
//! the uplink, as if that destination had spoken: connection tracking, NAT and routing lead it to the
//! local socket or the forwarded client. At tc ingress and at XDP it goes back out of the interface
//! that the packet came in by. Reached from the slow path only.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, xdp_action},
    helpers::generated::{
        bpf_csum_diff, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
        bpf_xdp_store_bytes,
    },
    programs::{TcContext, XdpContext},
};
use sov_common::{
    abi::Answers,
    answer::{Answer, Quote, WORDS, compose},
    parse::Packet as _,
};

use crate::{
    maps::{SOV_ANSWER, SOV_ANSWER_COST, SOV_ANSWERS, Scratch},
    skb::Skb,
    xdp::XdpFrame,
};

/// Answers that a CPU may send at once after a pause.
const BURST: u64 = 100;

/// This CPU's limit, looked at but not used up: only an answer that is sent costs.
#[inline(always)]
pub(crate) fn may_answer(now: u64) -> bool {
    let cost = SOV_ANSWER_COST.load();
    let Some(answers) = SOV_ANSWERS.get_ptr_mut(0) else { return false };
    if cost == 0 {
        return false;
    }
    // SAFETY: a per-CPU slot; packet hooks do not interrupt each other.
    let answers = unsafe { &mut *answers };
    let pause = now.wrapping_sub(answers.given_ns);
    let full = cost * BURST;
    let mut credit = answers.credit_ns.wrapping_add(pause);
    if pause > full || credit > full {
        credit = full;
    }
    answers.given_ns = now;
    answers.credit_ns = credit;
    if credit < cost {
        answers.suppressed += 1;
        return false;
    }
    true
}

/// Uses up the credit of an answer that is on its way, or counts that there is none.
#[inline(always)]
fn settle(sent: bool) {
    if let Some(answers) = SOV_ANSWERS.get_ptr_mut(0) {
        // SAFETY: as above.
        let answers: &mut Answers = unsafe { &mut *answers };
        if sent {
            answers.sent += 1;
            answers.credit_ns = answers.credit_ns.saturating_sub(SOV_ANSWER_COST.load());
        } else {
            answers.failed += 1;
        }
    }
}

/// Where a packet to be rewritten is cut or padded to first, and how much of it is then cut out behind
/// the link header: more than any transport header's place.
const STAGE: u32 = 512;
const CUT: i32 = 256;

/// Turns the packet into its answer and sends it; drops it where there is none.
#[inline(never)]
pub(crate) fn answer_skb(
    ctx: &TcContext,
    scratch: *mut Scratch,
    ethernet: bool,
    egress: bool,
    zero: u32,
) -> i32 {
    let Some(answer) = SOV_ANSWER.get_ptr_mut(0) else { return TC_ACT_SHOT as i32 };
    // SAFETY: this CPU's own working memory, each.
    let (answer, parsed) = unsafe { (&mut *answer, &(*scratch).parsed) };
    let skb = Skb(ctx);
    let raw = skb.raw();
    if !compose(&skb, parsed, ethernet, raw.gso_size != 0, zero, answer) {
        return TC_ACT_SHOT as i32;
    }
    let interface = raw.ifindex;
    let sent = rewrite_skb(ctx, answer);
    settle(sent);
    if !sent {
        return TC_ACT_SHOT as i32;
    }
    let flags = if egress { BPF_F_INGRESS as u64 } else { 0 };
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(interface, flags) as i32 }
}

#[inline(always)]
fn rewrite_skb(ctx: &TcContext, answer: &Answer) -> bool {
    let skb = ctx.skb.skb;
    let (length, link) = (answer.length, answer.link_length);
    if length < 40 || length > 1280 || link > 22 {
        return false;
    }
    // SAFETY: the context is a __sk_buff; sizes are bounded above and the sources are that large.
    unsafe {
        // Linear, ours alone, no longer to be cut into segments.
        if bpf_skb_change_tail(skb, STAGE, 0) != 0 {
            return false;
        }
        // Cutting beyond the place of the checksum that the device was asked for takes back the
        // request: the answer's checksums are complete. Fails for VLAN tags in the frame, where
        // there is no such request.
        bpf_skb_adjust_room(skb, -CUT, BPF_ADJ_ROOM_MAC, 0);
        if bpf_skb_change_tail(skb, link + length, 0) != 0
            || bpf_skb_store_bytes(skb, link, answer.packet.as_ptr().cast(), length, 0) != 0
        {
            return false;
        }
        link == 0 || bpf_skb_store_bytes(skb, 0, answer.link.as_ptr().cast(), link, 0) == 0
    }
}

/// The same at XDP: out of the interface that the frame came in by.
#[inline(never)]
pub(crate) fn answer_frame(ctx: &XdpContext, scratch: *mut Scratch, zero: u32) -> u32 {
    let Some(answer) = SOV_ANSWER.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: this CPU's own working memory, each.
    let (answer, parsed) = unsafe { (&mut *answer, &(*scratch).parsed) };
    let frame = &XdpFrame::new(ctx, scratch);
    if !compose(frame, parsed, true, false, zero, answer) {
        return xdp_action::XDP_DROP;
    }
    let sent = rewrite_frame(ctx, frame.len(), answer);
    settle(sent);
    if sent { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

/// Ethernet frames are no shorter, without their checksum.
const SHORTEST: u32 = 60;

#[inline(always)]
fn rewrite_frame(ctx: &XdpContext, before: u32, answer: &Answer) -> bool {
    let ctx = ctx.ctx;
    let (length, link) = (answer.length, answer.link_length);
    if length < 40 || length > 1280 || link < 14 || link > 22 {
        return false;
    }
    let total = if link + length < SHORTEST { SHORTEST } else { link + length };
    // SAFETY: the context is an xdp_md; sizes are bounded above and the sources are that large.
    unsafe {
        if total < before {
            if bpf_xdp_adjust_tail(ctx, total as i32 - before as i32) != 0 {
                return false;
            }
        } else if total > before && bpf_xdp_adjust_head(ctx, before as i32 - total as i32) != 0 {
            return false;
        }
        bpf_xdp_store_bytes(ctx, link, answer.packet.as_ptr().cast_mut().cast(), length) == 0
            && bpf_xdp_store_bytes(ctx, 0, answer.link.as_ptr().cast_mut().cast(), link) == 0
    }
}

impl Quote for Skb<'_> {
    #[inline(always)]
    fn copy(&self, offset: u32, length: u32, to: &mut [u32; WORDS], at: usize) -> bool {
        if length < 20 || length > 1232 {
            return false;
        }
        // SAFETY: 1,232 bytes fit behind the headers; the helper checks the packet's bounds.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.as_ptr(), offset, to.as_mut_ptr().add(at).cast(), length)
        };
        failed == 0
    }

    #[inline(always)]
    fn sum(words: &[u32; WORDS], at: usize, length: u32) -> u32 {
        sum(words, at, length)
    }
}

impl Quote for XdpFrame<'_> {
    #[inline(always)]
    fn copy(&self, offset: u32, length: u32, to: &mut [u32; WORDS], at: usize) -> bool {
        if length < 20 || length > 1232 {
            return false;
        }
        // SAFETY: as above.
        let failed = unsafe {
            bpf_xdp_load_bytes(self.ctx.ctx, offset, to.as_mut_ptr().add(at).cast(), length)
        };
        failed == 0
    }

    #[inline(always)]
    fn sum(words: &[u32; WORDS], at: usize, length: u32) -> u32 {
        sum(words, at, length)
    }
}

/// The kernel adds in memory order; older ones take 512 bytes at a time.
#[inline(always)]
fn sum(words: &[u32; WORDS], at: usize, length: u32) -> u32 {
    const PIECE: u32 = 512;
    let mut sum = 0u32;
    let mut rest = length;
    let mut i = 0;
    while i < 3 {
        let piece = if rest > PIECE { PIECE } else { rest };
        if piece == 0 {
            break;
        }
        // SAFETY: three pieces of 512 bytes fit behind the headers.
        sum = unsafe {
            let from = words.as_ptr().add(at + i * (PIECE / 4) as usize).cast_mut();
            bpf_csum_diff(core::ptr::null_mut(), 0, from, piece, sum) as u32
        };
        rest -= piece;
        i += 1;
    }
    let folded = (sum >> 16) + (sum & 0xffff);
    let folded = (folded >> 16) + (folded & 0xffff);
    u16::from_be(folded as u16) as u32
}
