//! A network with one filter in it: a sender, a cable, a far end that counts. Every filter has a
//! network of its own, so that measuring in turns changes nothing but who sends.

use std::{fs, net::IpAddr, path::Path};

use sov_agent::{
    datapath::{CgroupRoot, Datapath, Direction, EventReader, Options, Tc, interfaces},
    policy::image::Image,
};
use sov_tests::{
    agent::Host,
    cgroup::Cgroup,
    cpu,
    lab::{FAR, Lab, UPLINK},
    load::{Load, Order, Setup},
    netns::Netns,
};
use tempfile::TempDir;

use crate::{
    around::Around,
    peers::{self, Hook},
    tables::{MARK, PORT, Table, address_of},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    None,
    /// The same again: the noise.
    Again,
    /// A tcx program that does nothing.
    Empty,
    /// The agent's packet hook.
    Ours,
    /// The agent's packet and socket hooks.
    Whole,
    NftEgress,
    NftOutput,
    Ipset,
}

impl Filter {
    pub(crate) const ALL: [Self; 8] = [
        Self::None,
        Self::Again,
        Self::Empty,
        Self::Ours,
        Self::Whole,
        Self::NftEgress,
        Self::NftOutput,
        Self::Ipset,
    ];

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Again => "again",
            Self::Empty => "empty",
            Self::Ours => "ours",
            Self::Whole => "whole",
            Self::NftEgress => "nft-egress",
            Self::NftOutput => "nft-output",
            Self::Ipset => "ipset",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Again => "none, again",
            Self::Empty => "empty tcx program",
            Self::Ours => "sov-agent, packet hook",
            Self::Whole => "sov-agent, packet and socket hooks",
            Self::NftEgress => "nftables netdev egress, interval set",
            Self::NftOutput => "nftables output, interval set",
            Self::Ipset => "iptables and ipset, hash:net",
        }
    }

    /// Filters that never drop.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::None | Self::Again | Self::Empty)
    }

    /// Frames of packet sockets do not pass the IP layer's hooks.
    pub(crate) fn sees_raw(self) -> bool {
        !matches!(self, Self::Whole | Self::NftOutput | Self::Ipset)
    }
}

/// The agent's hooks on a namespace's uplink, on maps of its own.
pub(crate) struct Hooks {
    datapath: Datapath,
    events: EventReader,
    generation: u32,
    _host: Host,
}

impl Hooks {
    /// On the interface called [`UPLINK`].
    pub(crate) fn attach(ns: &Netns, direction: Direction, cgroup: Option<&Path>) -> Self {
        let host = Host::new().expect("a bpffs");
        let options = Options {
            pins: host.pin_dir(),
            pass_is_final: false,
            tc: Tc::Tcx,
            log: None,
            reject_rate: 1000,
        };
        let mut datapath = Datapath::load(&options).expect("the product's programs load");
        let events = datapath.take_events().expect("the event ring");
        ns.run(|| {
            let all = interfaces().expect("the interfaces");
            let uplink = all.iter().find(|one| one.name == UPLINK).expect("the uplink");
            datapath.attach_interface(uplink, direction).expect("a tcx link");
        });
        if let Some(path) = cgroup {
            let root = CgroupRoot::discover(Some(path)).expect("a cgroup");
            datapath.attach_cgroup(&root).expect("the socket hooks");
        }
        Self { datapath, events, generation: 0, _host: host }
    }

    pub(crate) fn publish(&mut self, image: &Image) {
        self.generation += 1;
        let words = image.live(self.generation, 0);
        self.datapath.publish(&words).expect("the image is published");
    }

    /// Blocked packets since the maps were made.
    pub(crate) fn blocked(&self) -> u64 {
        self.datapath.ledger().expect("the ledger").blocked
    }

    /// Reads events as the agent does; known flows stay known.
    pub(crate) fn read_events(&mut self) {
        while self.events.next_event().is_some() {}
    }
}

pub(crate) struct Site {
    pub(crate) filter: Filter,
    pub(crate) lab: Lab,
    pub(crate) load: Load,
    /// Why there is nothing to measure with the table in use.
    pub(crate) problem: Option<String>,
    hooks: Option<Hooks>,
    _cgroup: Option<Cgroup>,
}

impl Site {
    pub(crate) fn new(filter: Filter, around: &mut Around) -> Self {
        let lab = Lab::new().expect("namespaces");
        around.sink(&lab.internet, FAR);
        let cgroup = (filter == Filter::Whole).then(|| Cgroup::new().expect("a cgroup"));
        let path = cgroup.as_ref().map(Cgroup::path);
        let hooks = match filter {
            Filter::Ours | Filter::Whole => Some(Hooks::attach(&lab.work, Direction::Egress, path)),
            _ => None,
        };
        if filter == Filter::Empty {
            around.empty(&lab.work, UPLINK);
        }
        let load = start(&lab, cgroup.as_ref(), cpu::count() - 1);
        Self { filter, lab, load, problem: None, hooks, _cgroup: cgroup }
    }

    /// A second sender in the same network on the first CPU.
    pub(crate) fn second(&self) -> Load {
        start(&self.lab, None, 0)
    }

    /// Loads a table into the filter.
    pub(crate) fn use_table(&mut self, table: &Table) {
        let outcome = match self.filter {
            Filter::None | Filter::Again | Filter::Empty => Ok(()),
            Filter::Ours | Filter::Whole => {
                self.hooks.as_mut().expect("ours has hooks").publish(table.image());
                Ok(())
            }
            Filter::NftEgress => peers::nftables(&self.lab.work, table, Hook::Egress, UPLINK),
            Filter::NftOutput => peers::nftables(&self.lab.work, table, Hook::Output, UPLINK),
            Filter::Ipset => peers::ipset(&self.lab.work, table),
        };
        self.problem = outcome.err();
    }

    /// After a run.
    pub(crate) fn settle(&mut self) {
        if let Some(hooks) = &mut self.hooks {
            hooks.read_events();
        }
    }
}

/// Tells a sender the destinations of a table: `allow4`, `mix4`, `allow6`, `mix6`.
pub(crate) fn keep(load: &mut Load, lists: &Lists) {
    for name in ["allow4", "mix4", "allow6", "mix6"] {
        let order = Order::Keep { name: name.to_owned(), file: lists.0.path().join(name) };
        load.order(&order).expect("the sender keeps a list");
    }
}

/// Files of destinations: allowed ones, and allowed and blocked ones in turns.
pub(crate) struct Lists(TempDir);

/// Blocked destinations of the mixed lists: flows that are known after a round.
pub(crate) const BLOCKED: usize = 4_096;

impl Lists {
    /// `count` of each.
    pub(crate) fn of(table: &Table, count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for family in [4, 6] {
            let some = |allow| -> Vec<u128> {
                let all = table.judged(family, allow);
                let mut all = all.into_iter().filter(|a| is_fair(table, *a, family, allow)).cycle();
                all.by_ref().take(count.max(BLOCKED)).collect()
            };
            let allowed = &some(true)[..count];
            let blocked = some(false);
            let mixed = allowed
                .iter()
                .enumerate()
                .map(|(i, &address)| if i % 2 == 0 { address } else { blocked[i % BLOCKED] });
            let write = |name: String, list: &mut dyn Iterator<Item = u128>| {
                let bytes = |address| match address_of(address, family) {
                    IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                    IpAddr::V6(a) => a.octets(),
                };
                let bytes: Vec<u8> = list.flat_map(bytes).collect();
                fs::write(folder.path().join(name), bytes).expect("room for a list");
            };
            write(format!("mix{family}"), &mut mixed.into_iter());
            write(format!("allow{family}"), &mut allowed.iter().copied());
        }
        Self(folder)
    }
}

/// A destination that all filters judge alike.
pub(crate) fn is_fair(table: &Table, address: u128, family: u8, allow: bool) -> bool {
    is_routed(address, family) && table.is_listed(address, family) == allow
}

/// What leaves through the uplink's router from an ordinary socket: no address of this host, its
/// links or a group.
fn is_routed(address: u128, family: u8) -> bool {
    match address_of(address, family) {
        IpAddr::V4(a) => !matches!(a.octets()[0], 0 | 10 | 127 | 169 | 224..),
        IpAddr::V6(a) => a.segments()[0] >> 13 == 1,
    }
}

fn start(lab: &Lab, cgroup: Option<&Cgroup>, cpu: usize) -> Load {
    let setup = Setup {
        interface: UPLINK.to_owned(),
        mark: MARK,
        cpu,
        cgroup: cgroup.map(Cgroup::procs),
        port: PORT,
    };
    Load::start(&lab.work, Path::new(env!("CARGO_BIN_EXE_sov-load")), &setup)
        .expect("the sender starts")
}
