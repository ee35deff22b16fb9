//! Invariant 6: blocked = recorded + aggregated + suppressed + lost, whatever is thrown at it.

use std::thread;

use sov_common::verdict::Verdict;
use sov_tests::{
    lab::SOURCE4,
    packet::{UDP, ip4, udp},
    require_root, rules,
};

use crate::{kernel::Kernel, worlds};

/// More flows than the flow table and the ring buffer hold together, on both CPUs, nobody reading.
#[test]
fn the_ledger_balances_under_a_flood_of_distinct_flows() {
    require_root!();
    let kernel = Kernel::load();
    kernel.publish(&worlds::compile(rules::POLICY, None), 1);
    let before = kernel.counters();
    let program = &*kernel.program();
    let context = sov_tests::bpf::SkBuff::with_mark(rules::MARK);
    const EACH: u32 = 120_000;
    thread::scope(|scope| {
        for sender in 0..2u32 {
            scope.spawn(move || {
                for i in 0..EACH {
                    let to = std::net::Ipv4Addr::from(0xc633_6400 | (i % 64));
                    let port = (i / 64) as u16;
                    let segment =
                        udp(SOURCE4.into(), to.into(), 20_000 + sender as u16, port, b"flood");
                    let frame = ip4(SOURCE4, to, UDP).frame(&segment);
                    // Every flow twice: the second packet is aggregated if the first is on record.
                    for _ in 0..2 {
                        program.run(&frame, &context).expect("a test run");
                    }
                }
            });
        }
    });
    let [blocked, recorded, aggregated, suppressed, lost, table_full] = kernel.ledger();
    eprintln!(
        "blocked {blocked} = recorded {recorded} + aggregated {aggregated} + suppressed \
         {suppressed} + lost {lost}; table full {table_full}"
    );
    let counted: u64 = kernel
        .moved(&before)
        .iter()
        .filter(|(_, _, verdict, _)| *verdict == Verdict::Block)
        .map(|(_, _, _, packets)| packets)
        .sum();
    assert_eq!(blocked, 2 * 2 * u64::from(EACH), "every packet of the flood was blocked");
    assert_eq!(blocked, counted, "ledger and counters agree");
    assert_eq!(blocked, recorded + aggregated + suppressed + lost);
    assert!(recorded > 0 && aggregated > 0 && lost > 0, "the flood reached every term");
    // What the ledger calls recorded lies in the ring buffer, one event each.
    let mut events = kernel.datapath().take_events().expect("the event reader");
    let (mut read, mut packets) = (0u64, 0u64);
    while let Some(event) = events.next_event() {
        read += 1;
        packets += event.packets;
    }
    assert_eq!((read, packets), (recorded, recorded), "events in the ring buffer");
    // What it calls aggregated lies in the flow table.
    let flows: u64 =
        kernel.datapath().flows().expect("the flow table").iter().map(|f| f.value.packets).sum();
    assert_eq!(flows, aggregated, "packets in the flow table");
}
