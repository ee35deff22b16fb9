//! The real tc program on packets, by BPF_PROG_TEST_RUN: no interface, no waiting, millions of
//! packets. What only a wire can show is in the e2e tier.

mod differential;
mod exact;
mod generate;
mod kernel;
mod ledger;
mod swap;
mod worlds;

use sov_common::verdict::Verdict;
use sov_tests::{require_root, rules};

use kernel::Kernel;

/// The parser's table, on the kernel and on the same code in memory.
#[test]
fn parser_rules() {
    let kernel = kernel_if_allowed("parser_rules");
    let image = worlds::compile(rules::POLICY, None);
    if let Some(kernel) = &kernel {
        kernel.publish(&image, 1);
    }
    let (mut wrong, mut not_built) = (vec![], vec![]);
    for (description, frame, allow, reason) in rules::rows() {
        let memory = differential::in_memory(image.words(), 0, &frame, kernel::unix_now());
        if memory != (allow, reason) {
            wrong.push(format!("memory: {description}: {memory:?}, expected {allow} {reason:?}"));
        }
        let Some(kernel) = &kernel else { continue };
        let verdict = if allow { Verdict::Allow } else { Verdict::Block };
        let before = kernel.counters();
        // The e2e tier sends these few over a wire.
        let Some(passed) = kernel.try_passes(&frame, rules::MARK) else {
            not_built.push(description);
            continue;
        };
        let moved = kernel.moved(&before);
        if passed != allow || moved != [(0, reason, verdict, 1)] {
            wrong
                .push(format!("kernel: {description}: {moved:?}, expected {verdict:?} {reason:?}"));
        }
        // A packet from a workload is judged alike where it enters the host.
        let before = kernel.counters();
        let entered = kernel.enters(&frame, rules::MARK);
        let moved = kernel.moved(&before);
        if entered != Some(allow) || moved != [(0, reason, verdict, 1)] {
            wrong.push(format!(
                "ingress: {description}: {moved:?}, expected {verdict:?} {reason:?}"
            ));
        }
        // The same frame without the tag is nobody's business.
        assert!(kernel.passes(&frame, 0), "untagged: {description}");
    }
    eprintln!("not built by the kernel: {not_built:?}");
    assert!(not_built.len() < 8, "{not_built:?}");
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A frame that hides its source may be that of any tag that sources select: it is refused as theirs.
#[test]
fn frames_that_hide_their_source_are_not_untagged() {
    let Some(kernel) = kernel_if_allowed("frames_that_hide_their_source_are_not_untagged") else {
        return;
    };
    for selector in ["source = \"10.0.0.0/8\"", "dscp = 34"] {
        let policy = rules::POLICY.replace("mark = \"0x30/0xf0\"", selector);
        assert_ne!(policy, rules::POLICY);
        kernel.publish(&worlds::compile(&policy, None), 1);
        let mut blind = 0;
        for (description, frame, allow, _) in rules::rows() {
            let parsed = differential::parsed(&frame);
            if !parsed.is_blind() {
                continue;
            }
            assert!(!allow, "{description}");
            if let Some(passed) = kernel.try_passes(&frame, 0) {
                assert!(!passed, "{selector}: {description}");
                blind += 1;
            }
        }
        assert!(blind >= 5, "{blind} frames");
    }
}

/// The verifier accepts every program, and every map opens with its user-side type.
#[test]
fn every_program_loads_and_every_map_opens() {
    require_root!();
    let kernel = Kernel::load();
    let mut datapath = kernel.datapath();
    datapath.load_all().expect("every program is accepted");
    assert!(datapath.live().expect("SOV_IMAGE opens").is_none(), "no image before the first");
    assert!(datapath.counters().expect("SOV_COUNTERS opens").is_empty());
    assert_eq!(datapath.ledger().expect("SOV_LEDGER opens"), Default::default());
    assert!(datapath.flows().expect("SOV_FLOWS opens").is_empty());
    assert!(datapath.take_events().expect("SOV_EVENTS opens").next_event().is_none());
}

/// Before an image is live nothing may leave, tagged or not.
#[test]
fn without_an_image_nothing_passes() {
    require_root!();
    let kernel = Kernel::load();
    let (_, frame, _, _) = &rules::rows()[0];
    assert!(!kernel.passes(frame, rules::MARK));
    assert!(!kernel.passes(frame, 0));
}

/// No frame of any length or content makes the program pass what it has not understood, or fail.
#[test]
fn truncated_and_damaged_frames_are_judged() {
    require_root!();
    let kernel = Kernel::load();
    let image = worlds::compile(rules::POLICY, None);
    let words = kernel.publish(&image, 1);
    let mut rng = sov_tests::rng::Rng::new(0x7272_756e);
    let (mut judged, mut refused) = (0, 0);
    let mut expected = std::collections::BTreeMap::new();
    let before = kernel.counters();
    for (_, frame, _, _) in &rules::rows() {
        for _ in 0..200 {
            let mut frame = frame.clone();
            if rng.chance(40) {
                frame.truncate(14 + rng.below(frame.len() - 13));
            }
            for _ in 0..rng.below(4) {
                // Bytes from the ethertype on: the addresses before it decide nothing.
                let at = 12 + rng.below(frame.len() - 12);
                frame[at] = rng.u32() as u8;
            }
            // The kernel itself refuses to build some of them (too short for an IP header).
            let Some(passed) = kernel.try_passes(&frame, rules::MARK) else {
                refused += 1;
                continue;
            };
            judged += 1;
            let (allow, reason) =
                differential::in_memory(&words[..], 0, &frame, kernel::unix_now());
            assert_eq!(passed, allow, "{frame:02x?}");
            let verdict = if allow { Verdict::Allow } else { Verdict::Block };
            *expected.entry((reason, verdict as u8)).or_insert(0) += 1;
        }
    }
    let moved: std::collections::BTreeMap<_, _> = kernel
        .moved(&before)
        .into_iter()
        .map(|(_, reason, verdict, packets)| ((reason, verdict as u8), packets))
        .collect();
    assert_eq!(moved, expected, "reasons of the kernel and of the same code in memory");
    eprintln!("{judged} damaged frames judged, {refused} refused by the kernel before the program");
    assert!(judged > 20_000, "{judged} judged, {refused} refused");
}

/// The kernel, or nothing where privileges lack: classifier and model are compared all the same.
fn kernel_if_allowed(test: &str) -> Option<Kernel> {
    sov_tests::privilege::allowed(test).then(Kernel::load)
}

#[test]
fn twenty_random_policies_agree() {
    let kernel = kernel_if_allowed("twenty_random_policies_agree");
    let tally = worlds::random_policies(kernel.as_ref(), 20, 12_000);
    eprintln!("{tally:?}");
    assert!(tally.packets > 300_000, "{tally:?}");
    assert!(tally.reasons.len() >= 12, "too few kinds of answers to prove anything: {tally:?}");
}

#[test]
fn the_embedded_default_agrees() {
    let kernel = kernel_if_allowed("the_embedded_default_agrees");
    let tally = worlds::embedded_default(kernel.as_ref(), 400_000);
    eprintln!("{tally:?}");
    assert!(tally.packets > 1_000_000, "{tally:?}");
}

#[test]
fn a_hundred_thousand_prefixes_agree() {
    let kernel = kernel_if_allowed("a_hundred_thousand_prefixes_agree");
    let tally = worlds::hundred_thousand(kernel.as_ref(), 200_000);
    eprintln!("{tally:?}");
    assert!(tally.packets > 1_000_000, "{tally:?}");
}

/// The XDP program gives the same answers, whole frames and frames in pieces.
#[test]
fn at_xdp_ten_random_policies_agree() {
    let test = "at_xdp_ten_random_policies_agree";
    let kernel = sov_tests::privilege::allowed(test).then(Kernel::load_gateway);
    let tally = worlds::random_policies(kernel.as_ref(), 10, 6_000);
    eprintln!("{tally:?}");
    assert!(tally.packets > 100_000, "{tally:?}");
}

/// The code of selector kinds that no policy has used is not in the program; one that comes is, and stays.
#[test]
fn unused_selector_kinds_cost_nothing() {
    require_root!();
    let kernel = Kernel::load();
    let policy = |select: &str| {
        let marked = "select = [ { mark =";
        assert!(rules::POLICY.contains(marked));
        rules::POLICY.replace(marked, &format!("select = [ {select} {{ mark ="))
    };
    let all = "{ dscp = 34 }, { uid = 990 }, { vlan = 120 }, { source = \"10.99.0.0/16\" },";
    let texts = [policy(""), policy("{ dscp = 34 },"), policy(all), policy("")];
    let mut sizes = vec![];
    let to = "198.51.100.7".parse().unwrap();
    let mut frame = sov_tests::packet::udp_frame(sov_tests::lab::SOURCE4.into(), to, 9, b"");
    frame[15] = 34 << 2;
    for (i, text) in texts.iter().enumerate() {
        kernel.publish(&worlds::compile_small(text), i as u32 + 1);
        let by_dscp = text.contains("dscp");
        assert_eq!(kernel.passes(&frame, 0), !by_dscp, "{text}");
        assert!(!kernel.passes(&frame, rules::MARK), "{text}");
        sizes.push(kernel.program().translated_bytes().unwrap());
    }
    eprintln!("bytes: {sizes:?}");
    assert!(sizes[0] < sizes[1] && sizes[1] < sizes[2], "{sizes:?}");
    assert_eq!(sizes[2], sizes[3], "programs are not replaced by such that know less");
}

/// The parser's table at XDP. There is no mark there: everything has the tag.
#[test]
fn at_xdp_parser_rules() {
    require_root!();
    let kernel = Kernel::load_gateway();
    let text =
        rules::POLICY.replace("response = \"drop\"", "response = \"drop\"\nuntagged = \"marked\"");
    assert_ne!(text, rules::POLICY);
    kernel.publish(&worlds::compile_small(&text), 1);
    let mut wrong = vec![];
    let rows = rules::rows();
    for round in 0..96 {
        // Every other frame lies in pieces: an odd number of questions a round makes each row both.
        if rows.len().is_multiple_of(2) {
            kernel.passes(&rows[0].1, 0);
        }
        for (description, frame, allow, reason) in &rows {
            let (allow, reason) = (*allow, *reason);
            let verdict = if allow { Verdict::Allow } else { Verdict::Block };
            let before = if round < 2 { kernel.counters() } else { vec![] };
            let passed = kernel.try_passes(frame, 0);
            if passed != Some(allow) {
                wrong.push(format!("{description}: {passed:?}, expected {verdict:?} {reason:?}"));
            } else if round < 2 && kernel.moved(&before) != [(0, reason, verdict, 1)] {
                wrong.push(format!("{description}: {:?}, {reason:?}", kernel.moved(&before)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}
