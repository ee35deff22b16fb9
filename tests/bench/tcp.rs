//! What a TCP connection notices: round trips of one byte, and throughput.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use sov_tests::{cpu, load::Order, netns::Netns};

use crate::{
    Effort,
    model::{Group, Section},
    progress::Progress,
    site::{Filter, Site},
    stats,
    tables::{Table, address_of},
    wire::{load, position},
};

const ECHO: u16 = 7;
const DISCARD: u16 = 9;

/// Servers of one network; they end when dropped.
struct Servers<'a> {
    internet: &'a Netns,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<'a> Servers<'a> {
    fn start(internet: &'a Netns) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [ECHO, DISCARD].map(|port| {
            let listener = internet.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
            let listener = listener.expect("a free port in a namespace of its own");
            let seen = stop.clone();
            thread::spawn(move || serve(&listener, port == ECHO, &seen))
        });
        Self { internet, stop, threads: threads.into() }
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for port in [ECHO, DISCARD] {
            // Wakes the server, which then sees that it is to end.
            let _ = self.internet.run(|| TcpStream::connect((Ipv6Addr::LOCALHOST, port)));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One connection after another, on the first CPU: the sender has the last.
fn serve(listener: &TcpListener, echo: bool, stop: &AtomicBool) {
    cpu::pin(0);
    let mut buffer = vec![0; 256 * 1024];
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let _ = stream.set_nodelay(true);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if echo && stream.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
    }
}

pub(crate) fn section(
    sites: &mut [Site],
    table: &Table,
    effort: &Effort,
    progress: &Progress,
) -> Section {
    load(sites, table, effort);
    let mut groups = vec![];
    for family in [4, 6] {
        progress.step(&format!("TCP round trips and throughput, IPv{family}"));
        groups.extend(measure(sites, table, family, effort));
    }
    let about = [
        "One connection at a time to a random allowed destination, the client on one CPU, the server \
         on another. Round trips are of one byte; each round has its own percentiles. A round trip \
         is mostly wake-ups of two processes, throughput mostly copying: TCP hides a filter, so this \
         shows that nothing is lost, not that anything is won.",
        "A segment of up to 64 KiB passes the hook once (segmentation offload), as with a real card.",
    ];
    Section {
        id: "tcp".into(),
        title: "TCP".into(),
        about: about.map(str::to_owned).to_vec(),
        plots: vec![],
        groups,
    }
}

fn measure(sites: &mut [Site], table: &Table, family: u8, effort: &Effort) -> Vec<Group> {
    let to = table.judged(family, true);
    // [median, 99th percentile, throughput] by site.
    let mut samples: Vec<[Vec<f64>; 3]> = sites.iter().map(|_| Default::default()).collect();
    for round in 0..=effort.turns {
        for turn in 0..sites.len() {
            let i = (turn + round as usize) % sites.len();
            let site = &mut sites[i];
            if site.problem.is_some() {
                continue;
            }
            let _servers = Servers::start(&site.lab.internet);
            let to = address_of(to[round as usize], family);
            let order = Order::Trips { to, port: ECHO, count: effort.trips };
            let mut trips = site.load.order(&order).expect("round trips").trips;
            trips.sort_unstable();
            let percentile = |part: usize| f64::from(trips[(trips.len() - 1) * part / 100]) / 1e3;
            let order = Order::Stream { to, port: DISCARD, millis: effort.stream_ms };
            let stream = site.load.order(&order).expect("a stream");
            if round > 0 {
                samples[i][0].push(percentile(50));
                samples[i][1].push(percentile(99));
                samples[i][2].push(stream.sent as f64 * 8.0 / stream.wall_ns as f64);
            }
        }
    }
    let none = position(sites, Filter::None);
    let kinds = [
        ("p50", "round trip of one byte, median", "microseconds"),
        ("p99", "round trip of one byte, 99th percentile", "microseconds"),
        ("stream", "throughput of one connection", "Gbit/s"),
    ];
    let group = |(at, (id, what, unit)): (usize, (&str, &str, &str))| Group {
        id: format!("tcp.{id}.{family}"),
        title: format!("IPv{family}, {what}, {}", table.name),
        unit: unit.into(),
        base: Filter::None.name().into(),
        rows: sites
            .iter()
            .enumerate()
            .map(|(i, site)| match &site.problem {
                Some(why) => stats::absent(site.filter.id(), site.filter.name(), why),
                None => {
                    let (id, name) = (site.filter.id(), site.filter.name());
                    stats::row_by(id, name, &samples[i][at], &samples[none][at])
                }
            })
            .collect(),
    };
    kinds.into_iter().enumerate().map(group).collect()
}
