//! What `cargo xtask bench` needs around the product: a sink that counts, a hook that does nothing, a
//! bare XDP drop, and a packet generator. Built by the tests' build script only; nothing here is in
//! the agent.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
        btf_maps::{Array, PerCpuArray},
        helpers::bpf_redirect,
        macros::{btf_map, classifier, xdp},
        programs::{TcContext, XdpContext},
    };

    /// Packets that the sink, the bare drop and the generator saw: [sink, drop, generated].
    #[btf_map]
    static LAB_COUNT: PerCpuArray<u64, 3> = PerCpuArray::new();

    const SINK: u32 = 0;
    const DROP: u32 = 1;
    const MADE: u32 = 2;

    /// Of the generator. [0]: interface to redirect to. [1]: targets in use minus one, a power of two
    /// minus one. [2]: the next target.
    #[btf_map]
    static LAB_SETTINGS: Array<u32, 3> = Array::new();

    /// Destinations for the generator, network byte order; IPv4 in the first word.
    #[btf_map]
    static LAB_TARGETS: Array<[u32; 4], 65_536> = Array::new();

    #[inline(always)]
    fn count(which: u32) {
        if let Some(count) = LAB_COUNT.get_ptr_mut(which) {
            // SAFETY: a live value of this CPU alone.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn setting(which: u32) -> u32 {
        LAB_SETTINGS.get(which).copied().unwrap_or(0)
    }

    const ETHERTYPE_IPV4: u16 = 0x0800;
    const ETHERTYPE_IPV6: u16 = 0x86dd;
    /// Ethernet, IPv6, and the first 8 bytes of the transport header; generated frames are longer.
    const HEADERS: usize = 62;
    /// Ethernet, IPv4 without options, UDP.
    const HEADERS4: usize = 42;
    /// Destination port of the benchmark's datagrams.
    const PORT: u16 = 9000;

    /// The far end of a cable: counts the benchmark's datagrams and ends them, so that no receiver is
    /// measured. Everything else goes on.
    #[classifier]
    fn lab_sink(ctx: TcContext) -> i32 {
        let start = ctx.data();
        if start + HEADERS4 > ctx.data_end() {
            return TC_ACT_UNSPEC;
        }
        // SAFETY: below HEADERS4, which was compared with the end.
        let (ethertype, mut port) =
            unsafe { (*((start + 12) as *const u16), *((start + 36) as *const u16)) };
        if ethertype == ETHERTYPE_IPV6.to_be() && start + HEADERS <= ctx.data_end() {
            // SAFETY: below HEADERS.
            port = unsafe { *((start + 56) as *const u16) };
        } else if ethertype != ETHERTYPE_IPV4.to_be() {
            return TC_ACT_UNSPEC;
        }
        if port != PORT.to_be() {
            return TC_ACT_UNSPEC;
        }
        count(SINK);
        TC_ACT_SHOT as i32
    }

    /// The price of the hook itself.
    #[classifier]
    fn lab_empty(_: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    /// The floor: nothing can drop for less.
    #[xdp]
    fn lab_drop(_: XdpContext) -> u32 {
        count(DROP);
        xdp_action::XDP_DROP
    }

    /// Writes the next destination into the frame and sends it into a cable; run by test runs with
    /// live frames.
    #[xdp]
    fn lab_generate(ctx: XdpContext) -> u32 {
        let Some(next) = LAB_SETTINGS.get_ptr_mut(2) else { return xdp_action::XDP_ABORTED };
        // SAFETY: a live value; one CPU generates.
        let index = unsafe {
            *next = (*next).wrapping_add(1);
            *next & setting(1)
        };
        let Some(target) = LAB_TARGETS.get(index) else { return xdp_action::XDP_ABORTED };
        let start = ctx.data();
        if start + HEADERS > ctx.data_end() {
            return xdp_action::XDP_ABORTED;
        }
        // SAFETY: all of it is below HEADERS, which was compared with the end.
        unsafe {
            if *((start + 12) as *const u16) == ETHERTYPE_IPV6.to_be() {
                *((start + 38) as *mut u32) = target[0];
                *((start + 42) as *mut u32) = target[1];
                *((start + 46) as *mut u32) = target[2];
                *((start + 50) as *mut u32) = target[3];
            } else {
                *((start + 30) as *mut u32) = target[0];
            }
        }
        count(MADE);
        // SAFETY: a helper call with plain numbers.
        unsafe { bpf_redirect(setting(0), 0) as u32 }
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
