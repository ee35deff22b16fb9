//! Programs that measure the packet path. Built by the tests' build script only; nothing here is in
//! the agent.
//!
//! BPF_PROG_TEST_RUN repeats one packet, so each program first writes the next destination into it.
//! `bench_empty` does that and nothing else: its time is subtracted from all others.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// The atomic add of BPF is reachable by the intrinsic only.
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "see above"))]

#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod refuse;
#[cfg(target_arch = "bpf")]
mod reject;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod tc;
#[cfg(target_arch = "bpf")]
mod xdp;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::TC_ACT_SHOT,
        btf_maps::{Array, LpmTrie, lpm_trie::Key},
        macros::{btf_map, classifier},
        programs::TcContext,
    };
    use sov_common::{abi::Hook, image::Words};

    use crate::{
        maps::{Image, SOV_PASS},
        tc,
    };

    /// Address in host byte order, source port in network byte order.
    #[repr(C)]
    struct Target {
        address: [u32; 4],
        port: u32,
        pad: u32,
    }

    /// Which targets come next: `first + (next & mask)`.
    #[repr(C)]
    struct Cursor {
        first: u32,
        mask: u32,
        next: u32,
        pad: u32,
    }

    /// Four sets of 65,536. Written by the agent's tests; IPv4 in the last word.
    const TARGETS: usize = 4 * 65_536;

    #[btf_map]
    static BENCH_TARGETS: Array<Target, TARGETS> = Array::new();

    #[btf_map]
    static BENCH_CURSOR: Array<Cursor, 1> = Array::new();

    /// The same intervals as the image, as prefixes.
    #[btf_map]
    static BENCH_LPM4: LpmTrie<[u32; 1], u32, 1_048_576> = LpmTrie::new();

    #[btf_map]
    static BENCH_LPM6: LpmTrie<[u32; 4], u32, 1_048_576> = LpmTrie::new();

    const ETHERTYPE_IPV6: u32 = 0x86dd;
    /// Ethernet, IPv6, and the first 8 bytes of the transport header; frames are at least this long.
    const HEADERS: usize = 62;

    /// Writes the next destination and source port into the packet; what a lookup needs of it.
    #[inline(always)]
    fn aim(ctx: &TcContext) -> Option<&'static Target> {
        let cursor = BENCH_CURSOR.get_ptr_mut(0)?;
        // SAFETY: a live map value; one CPU runs one benchmark.
        let index = unsafe {
            let next = (*cursor).next;
            (*cursor).next = next.wrapping_add(1);
            (*cursor).first.wrapping_add(next & (*cursor).mask)
        };
        let target = BENCH_TARGETS.get_ptr(index)?;
        // SAFETY: a live map value that nobody writes while programs run.
        let target = unsafe { &*target };
        let start = ctx.data();
        if start + HEADERS > ctx.data_end() {
            return None;
        }
        // SAFETY: all of it is below HEADERS, which was compared with the end. x86 and arm64 write
        // unaligned words; the verifier refuses the program where the CPU cannot.
        unsafe {
            if is_v6(ctx) {
                *((start + 38) as *mut u32) = target.address[0].to_be();
                *((start + 42) as *mut u32) = target.address[1].to_be();
                *((start + 46) as *mut u32) = target.address[2].to_be();
                *((start + 50) as *mut u32) = target.address[3].to_be();
                *((start + 54) as *mut u32) = with_port(*((start + 54) as *const u32), target);
            } else {
                *((start + 30) as *mut u32) = target.address[3].to_be();
                *((start + 34) as *mut u32) = with_port(*((start + 34) as *const u32), target);
            }
        }
        Some(target)
    }

    /// Both ports as one word: a program that reads them so must not wait for half a word that was
    /// written just now, as no packet on a host does.
    #[inline(always)]
    fn with_port(ports: u32, target: &Target) -> u32 {
        ports & 0xffff_0000 | target.port & 0xffff
    }

    #[inline(always)]
    fn is_v6(ctx: &TcContext) -> bool {
        // SAFETY: the context of a tc program is a __sk_buff.
        let protocol = unsafe { (*ctx.skb.skb).protocol };
        protocol == (ETHERTYPE_IPV6 as u16).to_be() as u32
    }

    /// The image with the kernel's trie in place of its destination tables.
    #[derive(Clone, Copy)]
    struct Trie(Image);

    impl Words for Trie {
        #[inline(always)]
        fn word(&self, index: u32) -> u32 {
            self.0.word(index)
        }

        #[inline(always)]
        fn dword(&self, index: u32) -> u64 {
            self.0.dword(index)
        }

        #[inline(always)]
        fn class_v4(&self, address: u32) -> u16 {
            let key = [32, address.to_be()];
            // SAFETY: the same bytes; made as words, because a packed key is stored byte by byte.
            BENCH_LPM4
                .get(unsafe { &*(&raw const key).cast::<Key<[u32; 1]>>() })
                .copied()
                .unwrap_or(0) as u16
        }

        #[inline(always)]
        fn class_v6(&self, high: u64, low: u64) -> u16 {
            let key = [
                128,
                ((high >> 32) as u32).to_be(),
                (high as u32).to_be(),
                ((low >> 32) as u32).to_be(),
                (low as u32).to_be(),
            ];
            // SAFETY: as above.
            BENCH_LPM6
                .get(unsafe { &*(&raw const key).cast::<Key<[u32; 4]>>() })
                .copied()
                .unwrap_or(0) as u16
        }
    }

    /// The class of the target, which the caller returns so that nothing is left out.
    #[inline(always)]
    fn class_of<W: Words>(ctx: &TcContext, table: &W, target: &Target) -> i32 {
        let [a, b, c, d] = target.address;
        let class = if is_v6(ctx) {
            table.class_v6((a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64)
        } else {
            table.class_v4(d)
        };
        class as i32
    }

    #[classifier]
    fn bench_empty(ctx: TcContext) -> i32 {
        match aim(&ctx) {
            Some(_) => SOV_PASS.load(),
            None => TC_ACT_SHOT as i32,
        }
    }

    /// `sov_egress`.
    #[classifier]
    fn bench_egress(ctx: TcContext) -> i32 {
        let (Some(_), Some(image)) = (aim(&ctx), Image::live()) else { return TC_ACT_SHOT as i32 };
        tc::run(&ctx, image, Hook::TcEgress, true)
    }

    /// `sov_egress` with the kernel's trie in place of the image lookup.
    #[classifier]
    fn bench_egress_lpm(ctx: TcContext) -> i32 {
        let (Some(_), Some(image)) = (aim(&ctx), Image::live()) else { return TC_ACT_SHOT as i32 };
        tc::run(&ctx, Trie(image), Hook::TcEgress, true)
    }

    /// The lookup alone; returns the class.
    #[classifier]
    fn bench_lookup(ctx: TcContext) -> i32 {
        let (Some(target), Some(image)) = (aim(&ctx), Image::live()) else { return -2 };
        class_of(&ctx, &image, target)
    }

    #[classifier]
    fn bench_lookup_lpm(ctx: TcContext) -> i32 {
        let (Some(target), Some(image)) = (aim(&ctx), Image::live()) else { return -2 };
        class_of(&ctx, &Trie(image), target)
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are open to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
