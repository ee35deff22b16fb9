//! Reading a socket buffer: direct access where the bytes are linear, a helper where they are not.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::generated::{
        bpf_get_socket_cookie, bpf_get_socket_uid, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes,
    },
    programs::TcContext,
};
use sov_common::{
    classify::Address,
    parse::{Packet, Parsed},
    tags::Origin,
};

/// Headers end before this nearly always.
const NEAR: u32 = 255;

const OVERFLOW_UID: u32 = 65534;

/// A frame at a tc hook.
pub(crate) struct Skb<'a>(pub(crate) &'a TcContext);

impl Skb<'_> {
    #[inline(always)]
    pub(crate) fn raw(&self) -> &__sk_buff {
        // SAFETY: the context of a tc program is a __sk_buff.
        unsafe { &*self.0.skb.skb }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the buffer has N words; the helper checks the packet's bounds.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.as_ptr(), offset, words.as_mut_ptr().cast(), (N * 4) as u32)
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

impl Packet for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.raw().len
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = self.0.data() + offset as usize;
        if start + N * 4 <= self.0.data_end() {
            let mut words = MaybeUninit::<[u32; N]>::uninit();
            let mut i = 0;
            while i < N {
                // SAFETY: the whole range was compared with the end of the linear part. x86 and arm64
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
        // Beyond the linear part is not beyond the packet (TX_RING leaves 14 bytes linear).
        self.load(offset)
    }

    #[inline(always)]
    fn words_at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn near<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // The verifier wants a bound; a helper call costs more than the rest of the parser.
        if offset <= NEAR { self.words(offset) } else { self.load(offset) }
    }

    #[inline(always)]
    fn byte_at(&self, offset: u32) -> Option<u8> {
        let mut byte = 0u8;
        // SAFETY: the buffer has one byte; the helper checks the packet's bounds.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.as_ptr(), offset, (&raw mut byte).cast(), 1) };
        if failed == 0 { Some(byte) } else { None }
    }
}

/// What tag selectors see at a tc hook.
pub(crate) struct SkbOrigin<'a> {
    pub(crate) skb: Skb<'a>,
    pub(crate) parsed: &'a Parsed,
    /// At ingress hooks the packet's own interface is the one it came in by.
    pub(crate) ingress: bool,
}

impl Origin for SkbOrigin<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        let raw = self.skb.raw();
        if self.ingress { raw.ifindex } else { raw.ingress_ifindex }
    }

    #[inline(always)]
    fn cgroup(&self, level: u32) -> u64 {
        // SAFETY: the context of a tc program is a __sk_buff. 0 without a local socket.
        unsafe { bpf_skb_ancestor_cgroup_id(self.skb.0.skb.skb, level as i32) }
    }

    #[inline(always)]
    fn uid(&self) -> Option<u32> {
        // SAFETY: as above.
        let uid = unsafe { bpf_get_socket_uid(self.skb.0.skb.skb) };
        // Without a socket the helper says "overflow user": only a socket makes it an answer.
        // SAFETY: as above.
        if uid == OVERFLOW_UID && unsafe { bpf_get_socket_cookie(self.skb.0.as_ptr()) } == 0 {
            return None;
        }
        Some(uid)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.skb.raw().mark
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
        // The outermost tag is kept beside the frame, as a rule.
        let raw = self.skb.raw();
        let beside = if raw.vlan_present != 0 { raw.vlan_tci & 0xfff } else { 0 };
        if beside != 0 { beside } else { self.parsed.vlan }
    }

    #[inline(always)]
    fn blind(&self) -> bool {
        self.parsed.is_blind()
    }
}
