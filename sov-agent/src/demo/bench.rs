//! What a verdict costs: the egress program on packets to many destinations, by BPF_PROG_TEST_RUN.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use sov_common::verdict::Scope;

use super::{lab::workload, packet, plan::Tag};
use crate::{
    cli::inputs,
    data::dataset::Dataset,
    datapath::{Datapath, Options, Tc, test_run},
    policy::{self, Environment, Source},
};

/// Different destinations per family.
const DESTINATIONS: usize = 2000;
/// Runs on one packet when it is the same destination again and again.
const REPEAT: u32 = 200;
/// Size of `struct __sk_buff`, and where its mark is.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const DROPPED: i32 = 2;

/// Nanoseconds per packet of one family; means over the destinations.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Destinations whose packets were allowed, all different.
    pub destinations: usize,
    /// A tagged, allowed packet; each run goes to another destination.
    pub tagged_ns: f64,
    /// An untagged packet to the same destination, run just before: the shortest path.
    pub untagged_ns: f64,
    /// A tagged, allowed packet in an unbroken row of 200 to one destination.
    pub repeated_ns: f64,
    /// Likewise untagged.
    pub repeated_untagged_ns: f64,
}

impl Cost {
    pub fn verdict_ns(&self) -> f64 {
        self.tagged_ns - self.untagged_ns
    }

    pub fn repeated_verdict_ns(&self) -> f64 {
        self.repeated_ns - self.repeated_untagged_ns
    }
}

/// IPv4 and IPv6. Loads the programs a second time, beside those of the agent, with the same policy.
pub fn measure(pins: &Path, text: &str) -> anyhow::Result<[Cost; 2]> {
    let data = Dataset::embedded()?;
    let parsed = policy::parse(Source::new("demo", text));
    let compiled = policy::compile(&parsed, &data, &Environment::default(), inputs::now())
        .map_err(|findings| anyhow::anyhow!("the policy has {} findings", findings.len()))?;
    let options = Options {
        pins: pins.to_owned(),
        pass_is_final: false,
        reject_rate: 1000,
        tc: Tc::detect(),
        log: None,
    };
    let mut datapath = Datapath::load(&options)?;
    // The time since the epoch matters to rules that expire alone, and there are none.
    datapath.publish(&compiled.image.live(1, 0))?;
    let (v4, v6): (Vec<_>, Vec<_>) =
        (data.v4().map(|(start, _)| start).collect(), data.v6().map(|(start, _)| start).collect());
    let v4 = spread(&v4).map(|start| IpAddr::V4(Ipv4Addr::from_bits(start.saturating_add(1))));
    let v6 = spread(&v6).map(|start| IpAddr::V6(Ipv6Addr::from_bits(start.saturating_add(1))));
    let global = |address: &IpAddr| data.scope(*address) == Scope::Global;
    let (v4, v6): (Vec<_>, Vec<_>) = (v4.filter(global).collect(), v6.filter(global).collect());
    Ok([family(&mut datapath, &v4)?, family(&mut datapath, &v6)?])
}

/// The starts in an order that jumps all over the address space, each once.
fn spread<T: Copy>(starts: &[T]) -> impl Iterator<Item = T> + '_ {
    // A prime far from any table's size: every index comes once unless the size is a multiple.
    const STEP: usize = 7_368_787;
    (0..starts.len()).map(|i| starts[i * STEP % starts.len()])
}

fn family(datapath: &mut Datapath, destinations: &[IpAddr]) -> anyhow::Result<Cost> {
    let program = datapath.program("sov_egress")?;
    let run = |packet: &[u8], mark: u32, repeat: u32| {
        let mut context = [0; CONTEXT];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        test_run(program, packet, &context, repeat).context("BPF_PROG_TEST_RUN of sov_egress")
    };
    // The first run of each only finds out whether it is allowed.
    let mark = Tag::General.mark();
    let mut allowed = Vec::new();
    for destination in destinations {
        let packet = frame(*destination);
        if run(&packet, mark, 1)?.action != DROPPED {
            allowed.push(packet);
            if allowed.len() == DESTINATIONS {
                break;
            }
        }
    }
    ensure!(allowed.len() >= 1000, "only {} destinations are allowed", allowed.len());
    let (mut tagged, mut untagged) = (Vec::new(), Vec::new());
    for packet in &allowed {
        untagged.push(run(packet, 0, 1)?.nanoseconds);
        tagged.push(run(packet, mark, 1)?.nanoseconds);
    }
    let (mut repeated, mut repeated_untagged) = (Vec::new(), Vec::new());
    for packet in &allowed {
        repeated_untagged.push(run(packet, 0, REPEAT)?.nanoseconds);
        repeated.push(run(packet, mark, REPEAT)?.nanoseconds);
    }
    Ok(Cost {
        destinations: allowed.len(),
        tagged_ns: mean(tagged),
        untagged_ns: mean(untagged),
        repeated_ns: mean(repeated),
        repeated_untagged_ns: mean(repeated_untagged),
    })
}

/// Mean of the middle nine tenths: a few runs are hit by interrupts.
fn mean(mut values: Vec<u32>) -> f64 {
    values.sort_unstable();
    let cut = values.len() / 20;
    let middle = &values[cut..values.len() - cut];
    middle.iter().map(|&v| f64::from(v)).sum::<f64>() / middle.len().max(1) as f64
}

fn frame(destination: IpAddr) -> Vec<u8> {
    let ethertype: [u8; 2] = if destination.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] };
    let mut frame = vec![2, 0, 0, 0, 9, 2, 2, 0, 0, 0, 9, 1];
    frame.extend(ethertype);
    frame.extend(packet::udp(workload(destination), 40_000, destination, 443));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_ignores_the_ends() {
        let mut values = vec![100; 90];
        values.extend([1, 1, 1, 1, 1, 90_000, 90_000, 90_000, 90_000, 90_000]);
        assert!((mean(values) - 100.0).abs() < 1e-9);
        assert!((mean(vec![7]) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn every_start_is_used_once() {
        let starts: Vec<u32> = (0..10_007).collect();
        let mut seen: Vec<u32> = spread(&starts).collect();
        assert_ne!(seen[..100], starts[..100]);
        seen.sort_unstable();
        assert_eq!(seen, starts);
    }
}
