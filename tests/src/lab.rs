//! The usual topology: a host under test and an "internet" that answers for every address there is.
//!
//! ```text
//! work (agent, workloads)                 internet
//!   up0  10.20.0.2/24  fd00:20::2/64  <->  net0   every IPv4 and IPv6 address is local
//!        10.30.0.2/24  fd00:30::2/64
//! ```
//! The far side has no other interface, so no packet can leave the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::{Netns, run};

/// Uplink of the host under test.
pub const UPLINK: &str = "up0";
/// The internet's end of the cable.
pub const FAR: &str = "net0";
/// Host side of a container's cable.
pub const POD_SIDE: &str = "pod0";
pub const WORK_MAC: [u8; 6] = [2, 0x50, 0, 0, 0, 2];
pub const FAR_MAC: [u8; 6] = [2, 0x50, 0, 0, 0, 1];

/// Main source address of the host under test.
pub const SOURCE4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
pub const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2);
/// Second source address: outside of what source selectors name.
pub const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 2);
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 2);

pub struct Lab {
    pub work: Netns,
    pub internet: Netns,
}

impl Lab {
    /// Static neighbours: no ARP or ND on the wire.
    pub fn new() -> Result<Self> {
        let lab = Self::without_neighbours()?;
        let near = mac(WORK_MAC);
        let far = mac(FAR_MAC);
        lab.work.ip(&format!(
            "neigh replace 10.20.0.1 lladdr {far} dev {UPLINK}\n\
             neigh replace 10.30.0.1 lladdr {far} dev {UPLINK}\n\
             neigh replace fd00:20::1 lladdr {far} dev {UPLINK}\n\
             neigh replace fd00:30::1 lladdr {far} dev {UPLINK}"
        ))?;
        lab.internet.ip(&format!(
            "neigh replace 10.20.0.2 lladdr {near} dev {FAR}\n\
             neigh replace 10.30.0.2 lladdr {near} dev {FAR}\n\
             neigh replace fd00:20::2 lladdr {near} dev {FAR}\n\
             neigh replace fd00:30::2 lladdr {near} dev {FAR}"
        ))?;
        Ok(lab)
    }

    /// The same, but addresses are resolved by real ARP and ND.
    pub fn without_neighbours() -> Result<Self> {
        let lab = Self { work: Netns::new()?, internet: Netns::new()? };
        for ns in [&lab.work, &lab.internet] {
            for scope in ["all", "default"] {
                ns.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
                ns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
                ns.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
                ns.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            }
            // The far side answers pings and refusals at any rate.
            ns.sysctl("net/ipv4/icmp_ratelimit", "0")?;
            ns.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        }
        lab.cable(UPLINK, FAR, WORK_MAC, FAR_MAC)?;
        lab.work.ip(&format!(
            "addr add 10.20.0.2/24 dev {UPLINK}\n\
             addr add 10.30.0.2/24 dev {UPLINK}\n\
             addr add fd00:20::2/64 dev {UPLINK} nodad\n\
             addr add fd00:30::2/64 dev {UPLINK} nodad\n\
             link set {UPLINK} up"
        ))?;
        lab.internet.ip(&format!(
            "addr add 10.20.0.1/24 dev {FAR}\n\
             addr add 10.30.0.1/24 dev {FAR}\n\
             addr add fd00:20::1/64 dev {FAR} nodad\n\
             addr add fd00:30::1/64 dev {FAR} nodad\n\
             link set {FAR} up\n\
             route add local 0.0.0.0/0 dev lo table main\n\
             route add local ::/0 dev lo table main"
        ))?;
        lab.work.settle_ipv6(UPLINK)?;
        lab.internet.settle_ipv6(FAR)?;
        lab.work.ip(&format!(
            "route add default via 10.20.0.1 dev {UPLINK} src {SOURCE4}\n\
             route add default via fd00:20::1 dev {UPLINK} src {SOURCE6}"
        ))?;
        Ok(lab)
    }

    /// A container behind the host: `eth0` (10.40.0.2, fd00:40::2) on the host's `pod0`, routed.
    pub fn pod(&self) -> Result<Netns> {
        let pod = Netns::new()?;
        pod.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        run(std::process::Command::new("ip").args([
            "link",
            "add",
            POD_SIDE,
            "netns",
            self.work.name(),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            pod.name(),
        ]))?;
        self.work.sysctl("net/ipv4/ip_forward", "1")?;
        self.work.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.work.ip(&format!(
            "addr add 10.40.0.1/24 dev {POD_SIDE}\n\
             addr add fd00:40::1/64 dev {POD_SIDE} nodad\n\
             link set {POD_SIDE} up"
        ))?;
        pod.ip("addr add 10.40.0.2/24 dev eth0\n\
             addr add fd00:40::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.40.0.1\n\
             route add default via fd00:40::1")?;
        self.internet.ip(&format!(
            "route add 10.40.0.0/24 via {SOURCE4} dev {FAR}\n\
             route add fd00:40::/64 via {SOURCE6} dev {FAR}"
        ))?;
        pod.settle_ipv6("eth0")?;
        self.work.settle_ipv6(POD_SIDE)?;
        Ok(pod)
    }

    /// Another veth pair between the two namespaces; both ends down, no addresses.
    pub fn cable(&self, near: &str, far: &str, near_mac: [u8; 6], far_mac: [u8; 6]) -> Result<()> {
        run(std::process::Command::new("ip").args([
            "link",
            "add",
            near,
            "address",
            &mac(near_mac),
            "netns",
            self.work.name(),
            "type",
            "veth",
            "peer",
            "name",
            far,
            "address",
            &mac(far_mac),
            "netns",
            self.internet.name(),
        ]))?;
        Ok(())
    }
}

/// The main source address of the family of `destination`.
pub fn source_for(destination: IpAddr) -> IpAddr {
    if destination.is_ipv4() { SOURCE4.into() } else { SOURCE6.into() }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}
