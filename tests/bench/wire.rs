//! End to end: what a filter adds to each packet that leaves, and what is left of the packet rate. Also
//! on two cores.

use sov_tests::load::{Answer, Call, Load, Order};

use crate::{
    Effort,
    around::{Around, Count},
    model::{Group, Plot, Row, Section, Series},
    progress::Progress,
    site::{Filter, Lists, Site, keep},
    stats,
    tables::{Table, thousands},
};

/// A way of sending, and to whom.
#[derive(Clone, Copy)]
struct Mode {
    raw: bool,
    family: u8,
    mixed: bool,
}

fn modes() -> impl Iterator<Item = Mode> {
    [true, false].into_iter().flat_map(|raw| {
        [false, true]
            .into_iter()
            .flat_map(move |mixed| [4, 6].map(|family| Mode { raw, family, mixed }))
    })
}

impl Mode {
    /// `raw4-allow`, the middle of group ids.
    fn id(self) -> String {
        let how = if self.raw { "raw" } else { "udp" };
        format!("{how}{}-{}", self.family, if self.mixed { "mix" } else { "allow" })
    }

    fn name(self) -> String {
        let how = if self.raw { "raw frames" } else { "UDP socket" };
        let what = if self.mixed { "half of it blocked" } else { "all allowed" };
        format!("{how}, IPv{}, {what}", self.family)
    }

    fn order(self, effort: &Effort) -> Order {
        let name = format!("{}{}", if self.mixed { "mix" } else { "allow" }, self.family);
        let packets = effort.sent;
        let call = if self.mixed { Call::One } else { Call::Many };
        match self.raw {
            true => Order::Raw { name, packets, call },
            false => Order::Udp { name, packets, call },
        }
    }
}

/// One run: CPU nanoseconds and rate per packet that was handed to the kernel.
struct Run {
    cpu: f64,
    rate: f64,
}

pub(crate) fn section(
    sites: &mut [Site],
    around: &Around,
    tables: &[Table],
    effort: &Effort,
    progress: &Progress,
) -> Section {
    let mut groups = vec![];
    let mut growth: Vec<(String, usize, Group)> = vec![];
    for table in tables {
        progress.step(&format!("loading {} into all filters", table.name));
        load(sites, table, effort);
        for mode in modes() {
            progress.step(&format!("{}, {}", mode.name(), table.name));
            let (added, rate) = measure(sites, around, table, mode, effort);
            if !mode.mixed {
                growth.push((mode.id(), table.allowed(mode.family).len(), added.clone()));
            }
            groups.extend([added, rate]);
        }
    }
    let about = [
        "A sender in a network namespace, a veth cable, and a program at the far end that counts and \
         drops. Every filter has a namespace and a cable of its own; the senders take turns, 64 \
         packets to a sendmmsg call, 60 to 80 bytes each. CPU is that of the sending thread: the \
         whole way to the far end runs in it, which no network card is part of.",
        "Raw frames come from a packet socket, which has little to do before the hook: they show the \
         filter. Datagrams of an unconnected UDP socket are what programs send. The IP layer's hooks \
         (nftables output, iptables) and the agent's socket hooks do not see raw frames.",
        "Where half is blocked, the blocked half goes to 4,096 destinations, whose flows are known \
         after the first round. There every packet has a call of its own, also without a filter: \
         a refused packet would end a sendmmsg call and be tried twice.",
        "Ratios of added CPU are by nftables' egress hook (raw) or output hook (UDP).",
    ];
    let ids = ["raw4-allow", "raw6-allow", "udp4-allow", "udp6-allow"];
    Section {
        id: "wire".into(),
        title: "End to end".into(),
        about: about.map(str::to_owned).to_vec(),
        plots: ids.map(|id| plot(id, &growth)).to_vec(),
        groups,
    }
}

/// Loads a table into all filters and senders.
pub(crate) fn load(sites: &mut [Site], table: &Table, effort: &Effort) {
    let lists = Lists::of(table, effort.list);
    for site in sites {
        site.use_table(table);
        keep(&mut site.load, &lists);
    }
}

fn plot(id: &str, growth: &[(String, usize, Group)]) -> Plot {
    let series = Filter::ALL.iter().filter(|filter| **filter != Filter::None).map(|filter| {
        let mut points: Vec<(f64, f64)> = growth
            .iter()
            .filter(|(of, ..)| of == id)
            .filter_map(|(_, prefixes, group)| {
                let row = group.rows.iter().find(|row| row.id == filter.id())?;
                Some((*prefixes as f64, row.value?))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: filter.name().into(), points }
    });
    Plot {
        title: format!("Added CPU, {}", id.replace("-allow", "")),
        x: "prefixes in the filter".into(),
        y: "ns per packet over no filter".into(),
        series: series.filter(|series| !series.points.is_empty()).collect(),
    }
}

fn measure(
    sites: &mut [Site],
    around: &Around,
    table: &Table,
    mode: Mode,
    effort: &Effort,
) -> (Group, Group) {
    let mut runs: Vec<Vec<Run>> = sites.iter().map(|_| vec![]).collect();
    let mut lost: Vec<Option<String>> = sites.iter().map(|_| None).collect();
    let order = mode.order(effort);
    // The first round makes flows known and is not kept.
    for round in 0..=effort.turns {
        for turn in 0..sites.len() {
            // Another first each round: what comes before colours what comes after.
            let i = (turn + round as usize) % sites.len();
            let site = &mut sites[i];
            if site.problem.is_some() || mode.raw && !site.filter.sees_raw() {
                continue;
            }
            let before = around.count(Count::Sink);
            let answer = site.load.order(&order).expect("the sender sends");
            let arrived = around.count(Count::Sink) - before;
            site.settle();
            let made = answer.sent + answer.refused;
            let expected = if mode.mixed && !site.filter.is_open() { made / 2 } else { made };
            if arrived != expected {
                lost[i] = Some(format!("{arrived} of {expected} packets arrived"));
            }
            if round > 0 {
                runs[i].push(of_packets(&answer, made));
            }
        }
    }
    let reason = |i: usize| sites[i].problem.clone().or(lost[i].clone());
    let none = position(sites, Filter::None);
    let peer = position(sites, if mode.raw { Filter::NftEgress } else { Filter::NftOutput });
    let cpu = |i: usize| -> Vec<f64> { runs[i].iter().map(|run| run.cpu).collect() };
    let rate = |i: usize| -> Vec<f64> { runs[i].iter().map(|run| run.rate).collect() };
    let added = |i: usize| -> Vec<f64> {
        cpu(i).iter().zip(cpu(none)).map(|(one, none)| one - none).collect()
    };
    let rows = |row: &dyn Fn(usize, Filter) -> Row, without: Option<Filter>| -> Vec<Row> {
        let shown = |filter: Filter| Some(filter) != without && (!mode.raw || filter.sees_raw());
        let all = sites.iter().enumerate().filter(|(_, site)| shown(site.filter));
        all.map(|(i, site)| match reason(i) {
            Some(why) => stats::absent(site.filter.id(), site.filter.name(), why),
            None => row(i, site.filter),
        })
        .collect()
    };
    let cost = rows(
        &|i, filter| stats::row_by(filter.id(), filter.name(), &added(i), &added(peer)),
        Some(Filter::None),
    );
    let left =
        rows(&|i, filter| stats::row_by(filter.id(), filter.name(), &rate(i), &rate(none)), None);
    let title = format!("{}, {}", mode.name(), table.name);
    let size = thousands(table.allowed(mode.family).len());
    let added = Group {
        id: format!("added.{}.{}", mode.id(), table.id),
        title: format!(
            "{title} ({size} allowed): CPU added; without a filter {:.0} ns",
            stats::median(&cpu(none))
        ),
        unit: "ns per packet".into(),
        base: sites[peer].filter.name().into(),
        rows: cost,
    };
    let rate = Group {
        id: format!("rate.{}.{}", mode.id(), table.id),
        title: format!("{title}: packet rate"),
        unit: "packets per second".into(),
        base: Filter::None.name().into(),
        rows: left,
    };
    (added, rate)
}

fn of_packets(answer: &Answer, made: u64) -> Run {
    let made = made as f64;
    Run { cpu: answer.cpu_ns as f64 / made, rate: made * 1e9 / answer.wall_ns as f64 }
}

pub(crate) fn position(sites: &[Site], filter: Filter) -> usize {
    sites.iter().position(|site| site.filter == filter).expect("there is a site for every filter")
}

/// The same frames from one core and from two at once.
pub(crate) fn cores(
    sites: &mut [Site],
    around: &Around,
    table: &Table,
    effort: &Effort,
    progress: &Progress,
) -> Section {
    progress.step("one core and two");
    load(sites, table, effort);
    let lists = Lists::of(table, effort.list);
    let shown = [Filter::None, Filter::Ours, Filter::NftEgress];
    let mut groups = vec![];
    for filter in shown {
        let site = &mut sites[position(sites, filter)];
        if let Some(why) = site.problem.clone() {
            let rows = vec![stats::absent("two", "two cores", why)];
            groups.push(Group { title: filter.name().into(), rows, ..Group::default() });
            continue;
        }
        let mut second = site.second();
        keep(&mut second, &lists);
        let (mut one, mut two, mut lost) = (vec![], vec![], None);
        let name = "allow4".to_owned();
        let order = Order::Raw { name, packets: 2 * effort.sent, call: Call::Many };
        for round in 0..=effort.turns {
            for senders in [1, 2] {
                let before = around.count(Count::Sink);
                let answers = send(&mut site.load, (senders == 2).then_some(&mut second), &order);
                let arrived = around.count(Count::Sink) - before;
                let made: u64 = answers.iter().map(|answer| answer.sent + answer.refused).sum();
                if arrived != made {
                    lost = Some(format!("{arrived} of {made} packets arrived"));
                }
                let rate: f64 =
                    answers.iter().map(|one| of_packets(one, one.sent + one.refused).rate).sum();
                if round > 0 {
                    if senders == 1 { one.push(rate) } else { two.push(rate) }
                }
            }
        }
        let rows = match lost {
            Some(why) => vec![stats::absent("two", "two cores", why)],
            None => vec![
                stats::row_by("one", "one core", &one, &one),
                stats::row_by("two", "two cores", &two, &one),
            ],
        };
        groups.push(Group {
            id: format!("cores.{}", filter.id()),
            title: format!("{}, raw frames, IPv4, {}", filter.name(), table.name),
            unit: "packets per second".into(),
            base: "one core".into(),
            rows,
        });
    }
    let about = "One sender, and two senders on two CPUs at once, in the same network. Nothing in the \
        agent's path is shared between CPUs for allowed packets, so that its ratio should be that of no \
        filter; what two virtual CPUs share (a core, a cache, a neighbour) is in both.";
    Section {
        id: "cores".into(),
        title: "One core and two".into(),
        about: vec![about.to_owned()],
        plots: vec![],
        groups,
    }
}

fn send(first: &mut Load, second: Option<&mut Load>, order: &Order) -> Vec<Answer> {
    const SENDS: &str = "the sender sends";
    first.begin(order).expect(SENDS);
    let other = second.map(|second| second.order(order).expect(SENDS));
    std::iter::once(first.finish().expect(SENDS)).chain(other).collect()
}
