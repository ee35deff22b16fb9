//! XDP on a gateway's inside interfaces: forwarded traffic is judged before the kernel makes an skb of
//! it. Same image, same parser, same classifier, same records as the tc hooks.
//!
//! Every frame is judged by its destination, those for the gateway itself included: what is local is
//! not in the image, and destination NAT comes later.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    macros::xdp,
    programs::XdpContext,
};
use aya_log_ebpf::{debug, info};
use sov_common::{
    abi::{Hook, UNTAGGED},
    classify::{Address, TagEntry},
    image::Words,
    judge::judge,
    parse::{Frame, Packet, Parsed, parse},
    tags::{Origin, tag_of},
    verdict::{Reason, Verdict},
};

use crate::{
    emit,
    maps::{Image, SOV_XDP_COUNT, Scratch},
    refuse::{self, Facts, Refusal},
    reject,
    tc::now,
};

/// Headers end before this nearly always.
const NEAR: u32 = 255;

/// A frame in the driver's memory, in one piece or several (xdp.frags, kernel 5.18).
pub(crate) struct XdpFrame<'a> {
    pub(crate) ctx: &'a XdpContext,
    /// Read from there each time: what the verifier learns of it in one place, it forgets in the next,
    /// and needs half the steps.
    length: *const u64,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext, scratch: *mut Scratch) -> Self {
        // SAFETY: the context of an XDP program is an xdp_md; the scratch is this CPU's own.
        let length = unsafe {
            (*scratch).length = bpf_xdp_get_buff_len(ctx.ctx);
            &raw const (*scratch).length
        };
        Self { ctx, length }
    }

    #[inline(always)]
    fn raw(&self) -> &xdp_md {
        // SAFETY: as above.
        unsafe { &*self.ctx.ctx }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the buffer has N words; the helper checks the frame's bounds, over all its pieces.
        let failed = unsafe {
            bpf_xdp_load_bytes(self.ctx.ctx, offset, words.as_mut_ptr().cast(), (N * 4) as u32)
        };
        if failed != 0 {
            return None;
        }
        // SAFETY: the helper wrote all of it.
        let mut words = unsafe { words.assume_init() };
        let mut i = 0;
        while i < N {
            words[i] = u32::from_be(words[i]);
            i += 1;
        }
        Some(words)
    }
}

impl Packet for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a live field of the scratch.
        unsafe { self.length.read_volatile() as u32 }
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = self.ctx.data() + offset as usize;
        if start + N * 4 <= self.ctx.data_end() {
            let mut words = MaybeUninit::<[u32; N]>::uninit();
            let mut i = 0;
            while i < N {
                // SAFETY: the whole range was compared with the end of the first piece. x86 and arm64
                // read unaligned words; the verifier refuses the program where the CPU cannot.
                unsafe {
                    let word = u32::from_be(*(start as *const u32).add(i));
                    *words.as_mut_ptr().cast::<u32>().add(i) = word;
                }
                i += 1;
            }
            // SAFETY: all N words are written.
            return Some(unsafe { words.assume_init() });
        }
        // Beyond the first piece is not beyond the frame.
        self.load(offset)
    }

    #[inline(always)]
    fn words_at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn near<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // As in `skb.rs`: the verifier wants a bound, a helper call costs more than the parser.
        if offset <= NEAR { self.words(offset) } else { self.load(offset) }
    }

    #[inline(always)]
    fn byte_at(&self, offset: u32) -> Option<u8> {
        let mut byte = 0u8;
        // SAFETY: the buffer has one byte; the helper checks the frame's bounds.
        let failed = unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, (&raw mut byte).cast(), 1) };
        if failed == 0 { Some(byte) } else { None }
    }
}

/// What tag selectors see before there is an skb: no socket, no cgroup, no mark.
struct XdpOrigin<'a> {
    interface: u32,
    parsed: &'a Parsed,
}

impl Origin for XdpOrigin<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        self.interface
    }

    #[inline(always)]
    fn cgroup(&self, _level: u32) -> u64 {
        0
    }

    #[inline(always)]
    fn uid(&self) -> Option<u32> {
        None
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn source(&self) -> Option<Address> {
        Some(self.parsed.source())
    }

    #[inline(always)]
    fn dscp(&self) -> Option<u8> {
        Some(self.parsed.dscp as u8)
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        self.parsed.vlan
    }

    #[inline(always)]
    fn blind(&self) -> bool {
        self.parsed.is_blind()
    }
}

#[xdp(frags)]
fn sov_xdp(ctx: XdpContext) -> u32 {
    // The agent attaches only after an image is live; without one nothing may pass.
    let Some(image) = Image::live() else { return xdp_action::XDP_DROP };
    run(&ctx, image)
}

/// The whole way of a frame. The image is a parameter for measurements alone, as in `tc.rs`.
#[inline(always)]
pub(crate) fn run<W: Words + Copy>(ctx: &XdpContext, image: W) -> u32 {
    let Some(scratch) = Scratch::mine() else { return xdp_action::XDP_DROP };
    // SAFETY: this CPU's own working memory, see its definition.
    let parsed = unsafe { &mut (*scratch).parsed };
    let packet = XdpFrame::new(ctx, scratch);
    let frame = Frame { ethernet: true, protocol: 0, gso: false };
    parse(&packet, &frame, image.zero(), parsed);
    let bytes = packet.len().saturating_sub(14) as u64;
    let origin = XdpOrigin { interface: packet.raw().ingress_ifindex, parsed };
    let Some(slot) = tag_of(&image, &origin) else {
        emit::count_in(&SOV_XDP_COUNT, UNTAGGED, 0, Verdict::Allow, 1, bytes);
        return xdp_action::XDP_PASS;
    };
    let tag = TagEntry::read(&image, slot);
    let decision = judge(&image, tag.tier(), parsed, || now(&image));
    if decision.allow {
        emit::count_in(&SOV_XDP_COUNT, slot, decision.reason, Verdict::Allow, 1, bytes);
        return xdp_action::XDP_PASS;
    }
    let refusal = Refusal { decision, slot, hook: Hook::Xdp, ethernet: true, packets: 1, bytes };
    let action = account(ctx, image, scratch, &refusal);
    if action != ANSWER {
        return action;
    }
    reject::answer_frame(ctx, scratch, image.zero())
}

/// [`account`] says: turn the frame into an answer. No XDP_* has this number.
const ANSWER: u32 = 100;

/// The slow path: count and record, and what is to be done.
#[inline(never)]
fn account<W: Words + Copy>(
    ctx: &XdpContext,
    image: W,
    scratch: *mut Scratch,
    refusal: &Refusal,
) -> u32 {
    // SAFETY: this CPU's own working memory, three fields of it.
    let (parsed, event, clock) =
        unsafe { (&(*scratch).parsed, &mut (*scratch).event, &mut (*scratch).clock) };
    let Refusal { decision, slot, packets, bytes, .. } = *refusal;
    let tag = TagEntry::read(&image, slot);
    if refuse::passes_as_reply(tag, parsed, decision.reason) {
        let reason = Reason::Reply as u8;
        emit::count_in(&SOV_XDP_COUNT, slot, reason, Verdict::Allow, packets, bytes);
        return xdp_action::XDP_PASS;
    }
    let packet = XdpFrame::new(ctx, scratch);
    let verdict = decision.verdict(tag.enforce());
    let interface = packet.raw().ingress_ifindex;
    refuse::identify(event, parsed, refusal, verdict, interface);
    if !emit::known(&SOV_XDP_COUNT, true, &event.key, packets, bytes, || clock.coarse()) {
        let facts = Facts { ingress_ifindex: interface, cookie: 0, mark: 0 };
        refuse::describe(event, parsed, &image, refusal, &facts, clock.exact());
        event.src_mac = refuse::source_mac(&packet);
        emit::record(event, image.zero());
    }
    if matches!(verdict, Verdict::Block) {
        info!(ctx, "tag {} verdict block reason {}", slot, emit::word(decision.reason));
        let answerable = tag.reject() && decision.reason != Reason::Malformed as u8;
        if answerable && reject::may_answer(clock.coarse()) {
            return ANSWER;
        }
        return xdp_action::XDP_DROP;
    }
    debug!(ctx, "tag {} verdict would_block reason {}", slot, emit::word(decision.reason));
    xdp_action::XDP_PASS
}
