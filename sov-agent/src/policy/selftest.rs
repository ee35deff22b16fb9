//! Runs a policy's own `[[test]]`s on the finished image, with the classifier that the kernel runs.

use super::{
    diagnostic::Diagnostic,
    image::{Image, ImageSpec},
    meta::PolicyMeta,
    model::{Endpoint, Policy, Spanned},
    parse::values::protocol_name,
    reach::{ANY, Sample, samples},
};
use sov_common::{
    classify::{Address, Decision, Destination, classify},
    verdict::Reason,
};
use std::net::IpAddr;

/// Adds an error for every test that fails.
pub(super) fn run(
    findings: &mut Vec<Diagnostic>,
    policy: &Policy,
    image: &Image,
    spec: &ImageSpec,
    meta: &PolicyMeta,
    now: u64,
) {
    // The kernel's clock is 32 bits wide in an image; the parser refuses later expiries.
    let now = u32::try_from(now).unwrap_or(u32::MAX);
    for test in &policy.tests {
        let Some(tag) = meta.tag(&test.tag.value) else { continue };
        let Some(tier) = meta.tier_index(&tag.tier) else { continue };
        let cases = test.reach.iter().map(|to| (to, true));
        for (to, reach) in cases.chain(test.refuse.iter().map(|to| (to, false))) {
            if let Some(failure) = fails(image, spec, tier, &to.value, reach, now) {
                findings.push(report(to, reach, &tag.name, &failure, meta));
            }
        }
    }
}

struct Failure {
    decision: Decision,
    sample: Sample,
}

/// A test without a port or protocol speaks of all of them: it must hold for every kind of traffic that
/// the rules at the address tell apart.
fn fails(
    image: &Image,
    spec: &ImageSpec,
    tier: usize,
    to: &Endpoint,
    reach: bool,
    now: u32,
) -> Option<Failure> {
    let ask = |sample: Sample| judge(image, tier, to.address, sample, now);
    let base = Sample { protocol: to.protocol.unwrap_or(ANY), port: to.port.unwrap_or(0) };
    let class = usize::from(ask(base).class);
    let rows = spec.decisions.get(tier).and_then(|row| row.get(class));
    let mut cases = samples(rows);
    cases.insert(base);
    let wanted = |sample: &Sample| {
        to.protocol.is_none_or(|protocol| protocol == sample.protocol)
            && to.port.is_none_or(|port| port == sample.port)
    };
    let failed = |sample: Sample| {
        let decision = ask(sample);
        (decision.allow != reach).then_some(Failure { decision, sample })
    };
    cases.into_iter().filter(wanted).find_map(failed)
}

/// The classifier's answer about one kind of traffic to an address.
pub fn judge(image: &Image, tier: usize, address: IpAddr, to: Sample, now: u32) -> Decision {
    let address = match address {
        IpAddr::V4(v4) => Address::V4(v4.to_bits()),
        IpAddr::V6(v6) => Address::V6((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
    };
    let to =
        Destination { address, protocol: to.protocol, port: to.port, link: false, wire: false };
    classify(image.words(), tier as u32, &to, || now)
}

fn report(
    to: &Spanned<Endpoint>,
    reach: bool,
    tag: &str,
    failure: &Failure,
    meta: &PolicyMeta,
) -> Diagnostic {
    let Decision { allow, reason, class, rule } = failure.decision;
    let reason = Reason::from_u8(reason).map_or("?", Reason::as_str);
    let Sample { protocol, port } = failure.sample;
    let traffic = match (to.value.port, protocol) {
        (Some(_), _) | (_, ANY) => String::new(),
        (None, _) if port == 0 => format!(" by {}", protocol_name(protocol)),
        (None, _) => format!(" by {}/{port}", protocol_name(protocol)),
    };
    let message = format!(
        "test failed: `{tag}` must {} {}{traffic}, but the verdict is {} ({reason}, class {class})",
        if reach { "reach" } else { "not reach" },
        to.value.address,
        if allow { "allow" } else { "block" },
    );
    let help = match meta.rule(rule) {
        Some(rule) => format!(
            "the {} of tier `{}` in line {} decides",
            rule.kind.as_str(),
            rule.tier,
            rule.line
        ),
        None if reason == Reason::Port.as_str() => {
            "a rule allows this address, but for other protocols or ports".to_owned()
        }
        None => "no rule decides here; see `sov-agent explain`".to_owned(),
    };
    Diagnostic::error("test-failed", to.span.clone(), message).help(help)
}
