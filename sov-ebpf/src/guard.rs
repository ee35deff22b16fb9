//! The guard at the root of the cgroup tree: what local sockets send by an interface that no tc program
//! watches is judged here, by the same code. An interface is closed before anybody knows that it exists.
//!
//! It sees packets of sockets only: what is forwarded, and what packet sockets write, is for tc.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::TC_ACT_SHOT,
    btf_maps::{Array, HashMap},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_smp_processor_id},
    macros::{btf_map, cgroup_skb},
    programs::{SkBuffContext, TcContext},
};
use sov_common::abi::Hook;

use crate::{
    maps::{Image, Scratch},
    tc,
};

const PASS: i32 = 1;
/// The sender's call fails with EPERM.
const BLOCK: i32 = 0;
/// The same number in every network namespace.
const LOOPBACK: u32 = 1;

/// Interfaces that a tc egress program watches; the value means nothing. Written by the agent, after the
/// program is in place. Number 0, which no interface has, holds the cookie of the agent's namespace.
#[btf_map]
static SOV_GUARDED: HashMap<u32, u64, 1024> = HashMap::new();

/// The network namespace that the agent guards (SO_NETNS_COOKIE); interface numbers mean nothing in
/// another. Set at load.
#[unsafe(no_mangle)]
static SOV_NETNS: Global<u64> = Global::new(0);

/// Working memory. This hook runs in tasks and in softirqs and may be preempted by itself, so that
/// memory of the CPU would be shared: a run takes a desk and gives it back.
const DESKS: u32 = 64;
/// As many as may be taken by others from the CPU's own one on: tasks that were preempted at it, a
/// softirq, and CPUs that share it.
const TRIES: u32 = 8;

pub(crate) struct Desk {
    /// 1 while a run has it.
    taken: u64,
    scratch: Scratch,
}

#[btf_map]
static SOV_DESKS: Array<Desk, { DESKS as usize }> = Array::new();

#[cgroup_skb(egress)]
fn sov_guard(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context of this program is a __sk_buff.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if ifindex == LOOPBACK || SOV_GUARDED.get_ptr(&ifindex).is_some() {
        return PASS;
    }
    // What another namespace sends reaches ours, or leaves by interfaces that are not ours to guard.
    // SAFETY: as above.
    if unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } != SOV_NETNS.load() {
        return PASS;
    }
    let Some(image) = Image::live() else { return BLOCK };
    let Some(desk) = take() else { return BLOCK };
    // SAFETY: the desk is ours until it is given back.
    let scratch = unsafe { &raw mut (*desk).scratch };
    let packet = TcContext::new(ctx.skb.skb);
    let action = tc::judged(&packet, image, scratch, Hook::CgroupEgress, false);
    // SAFETY: a live map value. The exchange orders what was written before.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(&raw mut (*desk).taken, 0) };
    if action == TC_ACT_SHOT as i32 { BLOCK } else { PASS }
}

/// A free desk. `None` when [`TRIES`] are taken: the packet is lost then, it does not pass unjudged.
#[inline(always)]
fn take() -> Option<*mut Desk> {
    // SAFETY: no arguments.
    let first = unsafe { bpf_get_smp_processor_id() };
    let mut i = 0;
    while i < TRIES {
        let desk = SOV_DESKS.get_ptr_mut((first + i) % DESKS)?;
        // SAFETY: a live map value.
        let (_, free) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                &raw mut (*desk).taken,
                0,
                1,
            )
        };
        if free {
            return Some(desk);
        }
        i += 1;
    }
    None
}
