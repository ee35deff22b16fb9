//! Frames that arrive and are dropped before there is an skb, beside what else may drop them there.

use sov_agent::datapath::Direction;
use sov_tests::{
    bpf::Program,
    cpu,
    lab::UPLINK,
    netns::{Netns, run},
};

use crate::{
    Effort,
    around::{Around, Count},
    model::{Group, Section},
    peers::{self, Hook},
    programs::frame,
    progress::Progress,
    site::{BLOCKED, Hooks, is_fair},
    stats,
    tables::{Table, thousands},
};

pub(crate) const FLOOR: &str = "floor";
pub(crate) const OURS: &str = "ours";
pub(crate) const NFTABLES: &str = "nft-ingress";

/// The sender's end of a cable.
const NEAR: &str = "gen0";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Floor,
    Ours,
    Nftables,
}

impl Way {
    const ALL: [Self; 3] = [Self::Floor, Self::Ours, Self::Nftables];

    fn id(self) -> &'static str {
        match self {
            Self::Floor => FLOOR,
            Self::Ours => OURS,
            Self::Nftables => NFTABLES,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "bare XDP drop, counting",
            Self::Ours => "sov-agent, XDP: classify, count, record, drop",
            Self::Nftables => "nftables netdev ingress, interval set",
        }
    }
}

/// A gateway's inside interface with one way of dropping, at the end of a cable of its own.
struct Gate {
    way: Way,
    ns: Netns,
    ifindex: u32,
    hooks: Option<Hooks>,
    problem: Option<String>,
}

impl Gate {
    fn new(way: Way, sender: &Netns, around: &mut Around) -> Self {
        let ns = quiet();
        let near = format!("{NEAR}{}", way as u8);
        let link = format!("link add {near} type veth peer name {UPLINK} netns {}", ns.name());
        sender.ip(&format!("{link}\nlink set {near} up")).expect("a cable");
        ns.ip(&format!("link set {UPLINK} up")).expect("the other end");
        let mut hooks = None;
        match way {
            Way::Floor => around.floor(&ns, UPLINK),
            Way::Ours => hooks = Some(Hooks::attach(&ns, Direction::Xdp, None)),
            Way::Nftables => {}
        }
        let mut problem = None;
        if way == Way::Nftables {
            // Without an XDP program a veth takes frames only where it has its own receive queue.
            let queue = run(ns.command("ethtool").args(["-K", UPLINK, "gro", "on"]));
            problem = queue.err().map(|e| format!("{e:#}"));
        }
        let ifindex = sender.ifindex(&near).expect("the cable's index");
        Self { way, ns, ifindex, hooks, problem }
    }

    fn use_table(&mut self, table: &Table) {
        match self.way {
            Way::Floor => {}
            Way::Ours => {
                self.hooks.as_mut().expect("ours has hooks").publish(&table.for_all());
            }
            Way::Nftables => {
                let loaded = peers::nftables(&self.ns, table, Hook::Ingress, UPLINK);
                self.problem = self.problem.take().or(loaded.err());
            }
        }
    }

    /// Frames that this way has dropped so far.
    fn dropped(&self, around: &Around) -> u64 {
        match self.way {
            Way::Floor => around.count(Count::Drop),
            Way::Ours => self.hooks.as_ref().expect("ours has hooks").blocked(),
            Way::Nftables => peers::dropped(&self.ns),
        }
    }
}

/// A namespace that sends nothing of its own accord, such as neighbour discovery.
fn quiet() -> Netns {
    let ns = Netns::new().expect("a namespace");
    for which in ["all", "default"] {
        let key = format!("net/ipv6/conf/{which}/disable_ipv6");
        ns.sysctl(&key, "1").expect("a sysctl of the namespace");
    }
    ns
}

pub(crate) fn section(
    around: &mut Around,
    tables: &[Table],
    effort: &Effort,
    progress: &Progress,
) -> Section {
    let sender = quiet();
    let generator = around.generator();
    let mut gates: Vec<Gate> =
        Way::ALL.into_iter().map(|way| Gate::new(way, &sender, around)).collect();
    let mut groups = vec![];
    for table in tables {
        for gate in &mut gates {
            gate.use_table(table);
        }
        for family in [4, 6] {
            progress.step(&format!("XDP, {}, IPv{family}", table.name));
            groups.push(measure(&mut gates, around, &sender, &generator, table, family, effort));
        }
    }
    let about = [
        "A generator (an XDP program in live test runs) writes the next of 4,096 blocked destinations \
         into each frame and redirects it into a cable, at whose end it is dropped: by a program that \
         only counts, by the agent's XDP program (its flows are known after a round), by nftables. All \
         of it runs on one CPU, batch after batch, and the rate is by that CPU's time: setting a test run \
         up waits for the kernel. It contains the generator and the cable, which are the same for all \
         three. Every frame must be counted as dropped by the way under test.",
        "No network card is part of this: a driver's receive path adds the same to all of them.",
    ];
    Section {
        id: "xdp".into(),
        title: "Dropping what arrives".into(),
        about: about.map(str::to_owned).to_vec(),
        plots: vec![],
        groups,
    }
}

fn measure(
    gates: &mut [Gate],
    around: &mut Around,
    sender: &Netns,
    generator: &Program,
    table: &Table,
    family: u8,
    effort: &Effort,
) -> Group {
    let blocked = table.judged(family, false).into_iter();
    let fair: Vec<u128> = blocked.filter(|a| is_fair(table, *a, family, false)).collect();
    let list: Vec<u128> = fair.iter().copied().cycle().take(BLOCKED).collect();
    around.generate_to(family, &list);
    let frame = frame(family, false);
    let mut rates: Vec<Vec<f64>> = gates.iter().map(|_| vec![]).collect();
    // The first round makes flows known and is not kept.
    for round in 0..=effort.rounds {
        for turn in 0..gates.len() {
            let i = (turn + round as usize) % gates.len();
            let gate = &mut gates[i];
            if gate.problem.is_some() {
                continue;
            }
            around.generate_into(gate.ifindex);
            let packets = effort.packets.max(BLOCKED as u32);
            let before = (around.count(Count::Made), gate.dropped(around));
            let nanoseconds = sender.run(|| {
                cpu::pin(cpu::count() - 1);
                let start = cpu::thread_ns();
                generator.run_live(&frame, packets).expect("live test runs (kernel 5.18)");
                cpu::thread_ns() - start
            });
            let made = around.count(Count::Made) - before.0;
            let dropped = gate.dropped(around) - before.1;
            if made != u64::from(packets) || dropped != made {
                gate.problem = Some(format!("{dropped} of {made} frames were dropped by it"));
            }
            if let Some(hooks) = &mut gate.hooks {
                hooks.read_events();
            }
            if round > 0 {
                rates[i].push(f64::from(packets) * 1e9 / nanoseconds as f64);
            }
        }
    }
    let floor = &rates[0];
    let rows = gates.iter().zip(&rates).map(|(gate, rate)| match &gate.problem {
        Some(why) => stats::absent(gate.way.id(), gate.way.name(), why.clone()),
        None => stats::row_by(gate.way.id(), gate.way.name(), rate, floor),
    });
    let size = thousands(table.allowed(family).len());
    Group {
        id: format!("xdp.{}.{family}", table.id),
        title: format!("IPv{family}, {} ({size} allowed): frames dropped", table.name),
        unit: "frames per second".into(),
        base: Way::Floor.name().into(),
        rows: rows.collect(),
    }
}
