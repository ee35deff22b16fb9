//! Types that cross the boundary between the kernel programs and the agent.
//!
//! Only `repr(C)`, fixed-width integers and byte arrays; padding is a named field and every size is
//! asserted. `ABI_VERSION` is part of the pin path and of every image header.

/// Raised whenever a type in this module, the image layout or the meaning of either changes.
pub const ABI_VERSION: u32 = 3;

/// Tags per node; slot `UNTAGGED` counts what no selector matched.
pub const MAX_TAGS: u32 = 64;
pub const UNTAGGED: u8 = 64;

/// Declares a shared type and proves that it has no hidden padding.
macro_rules! shared {
    ($(#[$meta:meta])* pub struct $name:ident ($size:literal) {
        $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)*
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!($(size_of::<$ty>() +)* 0 == $size, "implicit padding");
        };
        // SAFETY: repr(C), integers and byte arrays only, and the assertions rule out padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

shared! {
    /// Key of the flow table `sov_flows`: one entry per five-tuple, tag, outcome and hook.
    #[derive(Hash, PartialOrd, Ord)]
    pub struct FlowKey (48) {
        /// Network byte order; IPv4 as `::ffff:a.b.c.d`.
        pub src: [u8; 16],
        pub dst: [u8; 16],
        /// Host byte order; 0 where the protocol has none.
        pub sport: u16,
        /// Host byte order; ICMP and ICMPv6: type * 256 + code.
        pub dport: u16,
        /// IP protocol of the innermost header that was judged.
        pub proto: u8,
        /// Tag slot.
        pub tag: u8,
        /// [`crate::verdict::Verdict`]
        pub verdict: u8,
        /// [`crate::verdict::Reason`]
        pub reason: u8,
        /// Interface the packet left by (egress) or came from (ingress); 0 at socket hooks.
        pub ifindex: u32,
        /// [`Hook`]
        pub hook: u8,
        pub pad: [u8; 3],
    }
}

shared! {
    /// Value of `sov_flows`. Written by the kernel only; the agent reads and deletes.
    pub struct FlowValue (64) {
        /// Packets after the first (the first is the ring-buffer event). GSO segments count one each.
        pub packets: u64,
        /// Bytes of those packets, link-layer header excluded.
        pub bytes: u64,
        /// CLOCK_BOOTTIME nanoseconds.
        pub first_ns: u64,
        pub last_ns: u64,
        /// Socket cookie; 0 = no local socket.
        pub cookie: u64,
        /// cgroup v2 id; 0 = none.
        pub cgroup: u64,
        /// Image generation that judged the first packet.
        pub generation: u32,
        pub class: u16,
        pub rule: u16,
        pub pad: u64,
    }
}

shared! {
    /// Ring-buffer event: the first packet (or connect) of a blocked or would-block flow.
    pub struct Event (144) {
        pub key: FlowKey,
        /// CLOCK_BOOTTIME nanoseconds.
        pub time_ns: u64,
        /// Packets in this event: 1, the GSO segments of one skb, or 1 for a refused socket call.
        pub packets: u64,
        /// Bytes, link-layer header excluded.
        pub bytes: u64,
        pub cookie: u64,
        pub cgroup: u64,
        pub generation: u32,
        pub class: u16,
        pub rule: u16,
        /// Process that connected or sent, where the socket hooks saw it; 0 = unknown.
        pub pid: u32,
        pub uid: u32,
        pub comm: [u8; 16],
        /// Interface that a forwarded packet came in by; 0 = local.
        pub ingress_ifindex: u32,
        /// 1 = `pid`, `uid`, `comm` are set.
        pub has_owner: u8,
        /// Socket type at socket hooks (1 stream, 2 datagram, 3 raw); 0 at packet hooks.
        pub socket_type: u8,
        /// Source MAC address of forwarded traffic; zero = none.
        pub src_mac: [u8; 6],
        pub mark: u32,
        /// Ethertype on the wire, host byte order; 0 at socket hooks.
        pub ethertype: u16,
        pub pad: [u8; 6],
    }
}

shared! {
    /// Value of `sov_sockets`, keyed by socket cookie (u64): who opened the socket.
    pub struct SocketOwner (40) {
        pub pid: u32,
        pub uid: u32,
        pub comm: [u8; 16],
        pub cgroup: u64,
        pub time_ns: u64,
    }
}

shared! {
    /// Key of `sov_replies`: a conversation that the other side opened. Value: CLOCK_BOOTTIME ns (u64).
    #[derive(Hash)]
    pub struct ReplyKey (40) {
        /// Network byte order; IPv4 as `::ffff:a.b.c.d`.
        pub remote: [u8; 16],
        pub local: [u8; 16],
        /// Host byte order; 0 for ICMP.
        pub remote_port: u16,
        pub local_port: u16,
        pub proto: u8,
        pub pad: [u8; 3],
    }
}

shared! {
    /// Value of the per-CPU array `sov_counters`, index [`counter_index`].
    pub struct Counter (16) {
        pub packets: u64,
        pub bytes: u64,
    }
}

shared! {
    /// The only element of the per-CPU array `sov_ledger`. Packets, not bytes:
    /// `blocked == recorded + aggregated + suppressed + lost` on every CPU, after every packet.
    #[derive(Default)]
    pub struct Ledger (48) {
        /// Packets and connects with verdict block or would_block.
        pub blocked: u64,
        /// Sent to the ring buffer as an [`Event`].
        pub recorded: u64,
        /// Added to an existing entry of the flow table.
        pub aggregated: u64,
        /// Left out on purpose (rate limit).
        pub suppressed: u64,
        /// The ring buffer had no room.
        pub lost: u64,
        /// Recorded, but the flow table had no room: the next packet is recorded again.
        pub table_full: u64,
    }
}

shared! {
    /// The only element of the per-CPU array `sov_answers`: polite refusals, and their limit.
    #[derive(Default)]
    pub struct Answers (40) {
        /// Resets and ICMP errors that were sent.
        pub sent: u64,
        /// Left out because the limit was reached.
        pub suppressed: u64,
        /// The kernel had no room to turn the packet into an answer, or no way back.
        pub failed: u64,
        /// Nanoseconds of credit; an answer costs what the limit says.
        pub credit_ns: u64,
        /// CLOCK_BOOTTIME nanoseconds up to which credit was given.
        pub given_ns: u64,
    }
}

/// Where a packet was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    TcEgress = 1,
    TcIngress = 2,
    Xdp = 3,
    Connect4 = 4,
    Connect6 = 5,
    Sendmsg4 = 6,
    Sendmsg6 = 7,
    /// The guard at the root of the cgroup tree, for interfaces that no tc program watches.
    CgroupEgress = 8,
}

impl Hook {
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::TcEgress,
            2 => Self::TcIngress,
            3 => Self::Xdp,
            4 => Self::Connect4,
            5 => Self::Connect6,
            6 => Self::Sendmsg4,
            7 => Self::Sendmsg6,
            8 => Self::CgroupEgress,
            _ => return None,
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcEgress => "tc_egress",
            Self::TcIngress => "tc_ingress",
            Self::Xdp => "xdp",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::CgroupEgress => "cgroup_egress",
        }
    }
}

/// Reasons fit in 32 counter slots, verdicts in 4.
pub const COUNTERS: u32 = (MAX_TAGS + 1) * 32 * 4;

/// Index into `sov_counters` of a tag slot, reason and verdict.
#[inline(always)]
pub const fn counter_index(tag: u8, reason: u8, verdict: u8) -> u32 {
    ((tag as u32) << 7) | ((reason as u32 & 31) << 2) | (verdict as u32 & 3)
}
