//! cgroup socket hooks: EPERM at once, and the name of who tried. They are a courtesy, never the
//! boundary: a descriptor that was opened elsewhere does not pass here, its packets do.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_socket_cookie,
            bpf_ktime_get_boot_ns,
        },
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::info;
use sov_common::{
    abi::{Event, FlowKey, Hook, SocketOwner},
    classify::{Address, Destination, TagEntry, classify},
    image::{Words as _, header},
    parse::protocol,
    tags::{Origin, tag_of},
    verdict::Verdict,
};

use crate::{
    emit::{self, mapped},
    maps::{Image, SOV_SOCKETS},
    tc::now,
};

const PASS: i32 = 1;
const EPERM: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn sov_connect4(ctx: SockAddrContext) -> i32 {
    run(&ctx, Hook::Connect4, v4(&ctx))
}

#[cgroup_sock_addr(connect6)]
fn sov_connect6(ctx: SockAddrContext) -> i32 {
    run(&ctx, Hook::Connect6, v6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
fn sov_sendmsg4(ctx: SockAddrContext) -> i32 {
    run(&ctx, Hook::Sendmsg4, v4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
fn sov_sendmsg6(ctx: SockAddrContext) -> i32 {
    run(&ctx, Hook::Sendmsg6, v6(&ctx))
}

#[inline(always)]
fn v4(ctx: &SockAddrContext) -> Address {
    // SAFETY: the context of these programs is a bpf_sock_addr.
    Address::V4(u32::from_be(unsafe { (*ctx.sock_addr).user_ip4 }))
}

#[inline(always)]
fn v6(ctx: &SockAddrContext) -> Address {
    // SAFETY: as above; each word is read on its own, as the verifier wants it.
    let word = |i: usize| u32::from_be(unsafe { (*ctx.sock_addr).user_ip6[i] }) as u64;
    Address::V6(word(0) << 32 | word(1), word(2) << 32 | word(3))
}

/// What tag selectors see of the calling task and its socket.
struct TaskOrigin<'a>(&'a SockAddrContext);

impl Origin for TaskOrigin<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn cgroup(&self, level: u32) -> u64 {
        // SAFETY: a plain number.
        unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
    }

    #[inline(always)]
    fn uid(&self) -> Option<u32> {
        Some(bpf_get_current_uid_gid() as u32)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the socket of the call; the verifier wants the null check.
        let socket = unsafe { (*self.0.sock_addr).__bindgen_anon_1.sk };
        if socket.is_null() { 0 } else { unsafe { (*socket).mark } }
    }

    #[inline(always)]
    fn source(&self) -> Option<Address> {
        None
    }

    #[inline(always)]
    fn dscp(&self) -> Option<u8> {
        None
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn blind(&self) -> bool {
        false
    }
}

#[inline(always)]
fn run(ctx: &SockAddrContext, hook: Hook, address: Address) -> i32 {
    let Some(image) = Image::live() else { return EPERM };
    // A selector that only packets show may still tag what passes here: the packet hooks decide then.
    // Where it could lead to a freer tag, the image says so and nothing is refused here.
    let Some(slot) = tag_of(&image, &TaskOrigin(ctx)) else { return PASS };
    // SAFETY: the context of these programs is a bpf_sock_addr.
    let (protocol, port, kind) = unsafe {
        let raw = &*ctx.sock_addr;
        (raw.protocol as u8, u16::from_be(raw.user_port as u16), raw.type_)
    };
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    own(cookie);
    let tag = TagEntry::read(&image, slot);
    // An answer is known by its packet alone; a new TCP connection never is one.
    if !tag.early() || tag.answers() && protocol as u32 != protocol::TCP {
        return PASS;
    }
    // Ports of raw sockets are protocol numbers or nothing.
    let ported = matches!(
        protocol as u32,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE
    );
    let port = if ported { port } else { 0 };
    let to = Destination { address, protocol, port, link: false, wire: false };
    let decision = classify(&image, tag.tier(), &to, || now(&image));
    // Link scope is for packets to judge: only they show whether the form is exact.
    if decision.allow || is_link(address) {
        return PASS;
    }
    let mut event = Event {
        key: FlowKey {
            src: mapped(unbound(address)),
            dst: mapped(address),
            sport: 0,
            dport: port,
            proto: protocol,
            tag: slot,
            verdict: Verdict::Block as u8,
            reason: decision.reason,
            ifindex: 0,
            hook: hook as u8,
            pad: [0; 3],
        },
        // SAFETY: no arguments.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        packets: 1,
        bytes: 0,
        cookie,
        cgroup: 0,
        generation: image.word(header::GENERATION),
        class: decision.class,
        rule: decision.rule,
        pid: 0,
        uid: 0,
        comm: [0; 16],
        ingress_ifindex: 0,
        has_owner: 0,
        socket_type: kind as u8,
        src_mac: [0; 6],
        mark: 0,
        ethertype: 0,
        pad: [0; 6],
    };
    emit::blocked(&mut event, image.zero());
    info!(ctx, "tag {} verdict block reason {} at connect", slot, emit::word(decision.reason));
    EPERM
}

#[inline(always)]
fn is_link(address: Address) -> bool {
    match address {
        Address::V4(a) => a == u32::MAX || a >> 16 == 0xa9fe || a >> 8 == 0x00e0_0000,
        Address::V6(high, _) => high >> 54 == 0x3fa || high >> 48 == 0xff02,
    }
}

/// The source is chosen after this hook: the unspecified address of the same family.
#[inline(always)]
fn unbound(address: Address) -> Address {
    match address {
        Address::V4(_) => Address::V4(0),
        Address::V6(..) => Address::V6(0, 0),
    }
}

/// Notes who uses the socket, for the records of the packet hooks. Who sends datagrams comes here with
/// each of them: looking is a quarter of the price of writing.
#[inline(always)]
fn own(cookie: u64) {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let uid = bpf_get_current_uid_gid() as u32;
    // SAFETY: no arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let comm = bpf_get_current_comm().unwrap_or_default();
    if let Some(owner) = SOV_SOCKETS.get_ptr(&cookie) {
        // SAFETY: a live map value; a concurrent eviction can at worst make it another's, and that differs.
        let owner = unsafe { &*owner };
        let same = owner.pid == pid && owner.uid == uid && owner.cgroup == cgroup;
        if same && halves(owner.comm) == halves(comm) {
            return;
        }
    }
    // SAFETY: no arguments.
    let time_ns = unsafe { bpf_ktime_get_boot_ns() };
    let owner = SocketOwner { pid, uid, comm, cgroup, time_ns };
    // A full table evicts the oldest: a record loses its process, nothing else.
    let _ = SOV_SOCKETS.insert(&cookie, &owner, 0);
}

/// For comparing without a loop over bytes.
#[inline(always)]
fn halves(comm: [u8; 16]) -> [u64; 2] {
    // SAFETY: sixteen bytes and two u64 are the same memory.
    unsafe { core::mem::transmute(comm) }
}
