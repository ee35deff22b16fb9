//! The compiled image against a naive evaluation of the policy, the profiles, and speed.

use super::*;
use crate::policy::{diagnostic::Source, parse::parse, profile};
use std::time::Instant;

/// A time inside the life of the embedded data.
fn now(data: &Dataset) -> u64 {
    data.built() + 24 * 60 * 60
}

fn shown(parsed: &Parsed, findings: &[Diagnostic]) -> String {
    findings.iter().map(|d| d.render(&parsed.source, false) + "\n").collect()
}

#[test]
fn embedded_profiles_compile_without_a_finding() {
    let data = Dataset::embedded().unwrap();
    for (name, text) in profile::PROFILES {
        let parsed = parse(Source::new(name, text));
        let started = Instant::now();
        let compiled = compile(&parsed, &data, &Environment::default(), now(&data))
            .unwrap_or_else(|findings| panic!("{}", shown(&parsed, &findings)));
        let took = started.elapsed();
        assert!(compiled.warnings.is_empty(), "{}", shown(&parsed, &compiled.warnings));
        assert_eq!(compiled.meta.name, name);
        println!(
            "{name}: {took:?}, {} classes, {} + {} intervals, {} words",
            compiled.spec.classes,
            compiled.spec.v4.len(),
            compiled.spec.v6.len(),
            compiled.image.words().len()
        );
    }
}
