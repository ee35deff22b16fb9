//! The compiled image against a naive evaluation of the policy, the profiles, and speed.

mod generate;
mod naive;

use super::*;
use crate::policy::{
    diagnostic::Source,
    meta::RuleMeta,
    parse::parse,
    profile::{self, profile},
    reach::Sample,
    selftest::judge,
};
use generate::Random;
use sov_common::verdict::Reason;
use std::{fmt::Write as _, net::IpAddr, time::Instant};

/// A time inside the life of the embedded data.
fn now(data: &Dataset) -> u64 {
    data.built() + 24 * 60 * 60
}

fn shown(parsed: &Parsed, findings: &[Diagnostic]) -> String {
    findings.iter().map(|d| d.render(&parsed.source, false) + "\n").collect()
}

fn compiled(text: &str, data: &Dataset, now: u64) -> (Parsed, Compiled) {
    let parsed = parse(Source::new("p.toml", text));
    let compiled = compile(&parsed, data, &Environment::default(), now)
        .unwrap_or_else(|findings| panic!("{text}\n{}", shown(&parsed, &findings)));
    (parsed, compiled)
}

/// Unix times around all expiries of the generator.
const CLOCK: [u64; 4] = [1_790_000_000, 1_810_000_000, 1_840_000_000, 1_890_000_000];

fn place(rule: &RuleMeta) -> String {
    match &rule.zone {
        Some(zone) => format!("zone {zone}"),
        None => format!("line {}", rule.line),
    }
}

#[test]
fn random_policies_are_compiled_to_what_they_say() {
    let mut reasons = HashSet::new();
    for seed in 0..150 {
        let mut random = Random(seed);
        let data = generate::data(&mut random);
        let text = generate::policy(&mut random, [1, 1]);
        let (parsed, compiled) = compiled(&text, &data, CLOCK[0]);
        let mut to = naive::edges(&parsed.policy);
        to.extend((0..400).map(|_| generate::address(&mut random)));
        to.extend(generate::SPECIAL.iter().map(|text| text.parse::<IpAddr>().unwrap()));
        let starts = compiled.spec.v4.iter().map(|i| IpAddr::V4(i.0.into()));
        let starts = starts.chain(compiled.spec.v6.iter().map(|i| IpAddr::V6(i.0.into())));
        to.extend(starts.flat_map(naive::around));
        for address in to {
            let sample = generate::sample(&mut random);
            let now = *random.pick(&CLOCK);
            for (number, tier) in parsed.policy.tiers.iter().enumerate() {
                let expected = naive::judge(&parsed, &data, tier, address, sample, now);
                let found = judge(&compiled.image, number, address, sample, now as u32);
                let found = naive::Judgement {
                    allow: found.allow,
                    reason: Reason::from_u8(found.reason).unwrap(),
                    rule: compiled.meta.rule(found.rule).map(place),
                };
                assert_eq!(
                    found, expected,
                    "seed {seed}, {address} {sample:?} at {now}, tier {}\n{text}",
                    tier.name.value
                );
                reasons.insert(expected.reason);
            }
        }
    }
    // Everything that a policy can say has been said.
    for reason in Reason::ALL {
        use Reason::{Malformed, NoPolicy, Reply, StaleData, Tunnel};
        let of_packets = matches!(reason, Malformed | NoPolicy | Reply | StaleData | Tunnel);
        assert_eq!(reasons.contains(reason), !of_packets, "{}", reason.as_str());
    }
}

#[test]
fn the_rank_lattice_holds_or_is_refused() {
    let (mut held, mut refused) = (0, 0);
    for seed in 0..150 {
        let mut random = Random(seed + 1000);
        let data = generate::data(&mut random);
        let text = generate::policy(&mut random, [2, 1]);
        let parsed = parse(Source::new("p.toml", text.as_str()));
        let result = compile(&parsed, &data, &Environment::default(), CLOCK[0]);
        let mut to = naive::edges(&parsed.policy);
        to.extend((0..300).map(|_| generate::address(&mut random)));
        let mut escapes = false;
        for address in to {
            let sample = generate::sample(&mut random);
            let now = *random.pick(&CLOCK);
            let reaches = |tier: usize| {
                naive::judge(&parsed, &data, &parsed.policy.tiers[tier], address, sample, now).allow
            };
            escapes |= reaches(0) && !reaches(1);
        }
        match result {
            Ok(_) => {
                assert!(!escapes, "seed {seed}: a higher rank reaches more\n{text}");
                held += 1;
            }
            Err(findings) => {
                let codes: Vec<_> =
                    findings.iter().filter(|f| f.is_error()).map(|f| f.code).collect();
                assert_eq!(codes, ["rank"], "seed {seed}\n{}", shown(&parsed, &findings));
                refused += 1;
            }
        }
    }
    assert!(held > 20 && refused > 20, "{held} held, {refused} refused");
}

#[test]
fn embedded_profiles_compile_without_a_finding() {
    let data = Dataset::embedded().unwrap();
    for (name, text) in profile::PROFILES {
        let (parsed, compiled) = compiled(text, &data, now(&data));
        assert!(compiled.warnings.is_empty(), "{}", shown(&parsed, &compiled.warnings));
        assert_eq!(compiled.meta.name, name);
        assert_eq!(compiled.unresolved.is_empty(), name == "monitor-only");
        let read: PolicyMeta = serde_json::from_slice(compiled.image.metadata()).unwrap();
        assert_eq!(read, compiled.meta);
    }
}

#[test]
fn a_hundred_thousand_prefixes_compile_exactly_and_fast() {
    let data = Dataset::embedded().unwrap();
    let mut random = Random(7);
    let mut text = "version = 1\n[[tier]]\nname = \"t\"\nlocation = [\"JP\"]\ncontrol = [\"JP\"]\n\
         [[tag]]\nname = \"g\"\ntier = \"t\"\nrank = 1\nselect = [{ mark = \"1\" }]\n"
        .to_owned();
    let mut nets = HashSet::new();
    while nets.len() < 100_000 {
        let length = *random.pick(&[20, 22, 23, 24, 24, 24]);
        // Three thousand /16s, as far apart as real networks are.
        let upper = 0x0b00 + random.below(3000) as u32 * 13;
        let v4 = std::net::Ipv4Addr::from_bits(upper << 16 | random.next() as u32 & 0xffff);
        let net = ipnet::Ipv4Net::new(v4, length).unwrap().trunc();
        nets.insert(net);
    }
    let mut nets: Vec<_> = nets.into_iter().collect();
    nets.sort();
    let mut allow = String::new();
    for net in &nets {
        writeln!(allow, "{{ prefix = \"{net}\" }},").unwrap();
    }
    text = text.replace("[[tag]]", &format!("allow = [\n{allow}]\n[[tag]]"));
    let started = Instant::now();
    let parsed = parse(Source::new("p.toml", text));
    let read = started.elapsed();
    let result = compile(&parsed, &data, &Environment::default(), now(&data));
    println!("read {read:?}, compiled {:?}", started.elapsed() - read);
    let compiled = result.unwrap_or_else(|f| {
        let errors: Vec<_> = f.into_iter().filter(Diagnostic::is_error).take(5).collect();
        panic!("{}", shown(&parsed, &errors))
    });
    let to = Sample { protocol: 6, port: 443 };
    for net in nets.iter().step_by(97) {
        for address in [net.network(), net.broadcast()] {
            let decision = judge(&compiled.image, 0, address.into(), to, 0);
            let loopback = address.is_loopback();
            let expected = if loopback { Reason::Scope } else { Reason::AllowRule };
            assert_eq!((decision.allow, decision.reason), (true, expected as u8), "{address}");
        }
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn old_data_make_no_image() {
    let data = Dataset::embedded().unwrap();
    let text = profile(profile::DEFAULT).unwrap().replace("365d", "2d");
    let parsed = parse(Source::new("p.toml", text));
    let at = |days: u64| {
        compile(&parsed, &data, &Environment::default(), data.built() + days * 24 * 60 * 60)
    };
    assert!(at(2).is_ok());
    let findings = at(3).unwrap_err();
    assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), ["stale-data"]);
    assert!(shown(&parsed, &findings).contains("3 days old"), "{}", shown(&parsed, &findings));
}

#[test]
fn tags_keep_the_slots_that_they_have() {
    let data = Dataset::embedded().unwrap();
    let parsed = parse(Source::new("p", profile(profile::DEFAULT).unwrap()));
    let live = [("general".to_owned(), 7), ("gone".to_owned(), 0)];
    let mut env = Environment { tag_slots: live.into(), ..Environment::default() };
    env.cgroups.insert("/sovereign.slice".into(), (4242, 1));
    let compiled = compile(&parsed, &data, &env, now(&data)).unwrap();
    assert_eq!(compiled.meta.tag("general").unwrap().slot, 7);
    assert_eq!(compiled.meta.tag("sovereign").unwrap().slot, 1);
    assert_eq!(compiled.spec.selectors.cgroups, [(4242, 1, 1)]);
    let missing: Vec<_> = compiled.unresolved.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(missing, ["/general.slice"]);
}
