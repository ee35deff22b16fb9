//! Policies and their data for the differential tests: compiled by the product, judged by the model.

use std::net::IpAddr;

use sov_agent::{
    data::dataset::Dataset,
    policy::{self, Environment, Source, image::Image},
};
use sov_tests::{
    model::{Location, Prefix, Rows, Tier, offset},
    rng::Rng,
};

use crate::{
    differential::{Tagged, Tally, compare, destinations, question},
    generate::{self, Now, World},
    kernel::{Kernel, unix_now},
};

/// Compiles a policy for data (the embedded data by default); panics with its findings.
pub(crate) fn compile(text: &str, dataset: Option<&Dataset>) -> Image {
    let embedded;
    let dataset = match dataset {
        Some(dataset) => dataset,
        None => {
            embedded = Dataset::embedded().expect("the embedded data are sound");
            &embedded
        }
    };
    try_compile(text, dataset)
        .unwrap_or_else(|findings| panic!("the policy does not compile:\n{findings}\n{text}"))
}

/// Compiles for data that know nothing: fast, for policies that decide by rules alone.
pub(crate) fn compile_small(text: &str) -> Image {
    compile(text, Some(&generate::no_data()))
}

/// `Err` holds the errors as an operator would see them.
fn try_compile(text: &str, dataset: &Dataset) -> Result<Image, String> {
    let parsed = policy::parse(Source::new("policy.toml", text));
    match policy::compile(&parsed, dataset, &Environment::default(), unix_now()) {
        Ok(compiled) => Ok(compiled.image),
        Err(findings) => Err(findings
            .iter()
            .filter(|finding| finding.is_error())
            .map(|finding| finding.render(&parsed.source, false))
            .collect()),
    }
}

/// Questions about the edges and about `random` destinations (half of them `near` something), to
/// each tag.
#[expect(clippy::too_many_arguments, reason = "a test's inner loop, called twice")]
fn run(
    kernel: Option<&Kernel>,
    words: &[u32],
    rows: &Rows,
    tags: &[Tagged<'_>],
    edges: &[IpAddr],
    near: &[Prefix],
    random: usize,
    rng: &mut Rng,
    tally: &mut Tally,
) {
    let now = unix_now();
    let mut edges = edges.to_vec();
    edges.sort();
    edges.dedup();
    for tag in tags {
        let mut all = edges.clone();
        all.extend(destinations(rng, near, random));
        let queries: Vec<_> = all.into_iter().map(|a| question(rng, a, now)).collect();
        compare(kernel, words, rows, tag, &queries, tally);
    }
}

fn publish(kernel: Option<&Kernel>, image: &Image, generation: u32) -> Vec<u32> {
    match kernel {
        Some(kernel) => kernel.publish(image, generation),
        None => image.words().to_vec(),
    }
}

/// Random small policies; `random` destinations for each tag of each.
pub(crate) fn random_policies(kernel: Option<&Kernel>, count: usize, random: usize) -> Tally {
    let mut tally = Tally::default();
    let (mut seed, mut done) = (0, 0);
    while done < count {
        seed += 1;
        assert!(seed < 4 * count as u64, "{done} of {seed} generated policies fit an image");
        let world = generate::small(seed, &Now(unix_now()));
        match try_compile(&world.policy, &world.dataset) {
            Ok(image) => {
                // Printed with a failure only.
                eprintln!("seed {seed}");
                world_agrees(kernel, &world, &image, seed as u32, random, &mut tally);
                done += 1;
            }
            // More overlapping port ranges than an image holds: a limit, not a subject of this test.
            Err(findings) if findings.contains("overlap at") => {}
            Err(findings) => panic!("seed {seed} does not compile:\n{findings}\n{}", world.policy),
        }
    }
    tally
}

/// A policy over a hundred thousand prefixes.
pub(crate) fn hundred_thousand(kernel: Option<&Kernel>, random: usize) -> Tally {
    let world = generate::large(0x100_000, 60_000, 40_000);
    let image = compile(&world.policy, Some(&world.dataset));
    let mut tally = Tally::default();
    world_agrees(kernel, &world, &image, 1, random, &mut tally);
    tally
}

fn world_agrees(
    kernel: Option<&Kernel>,
    world: &World,
    image: &Image,
    generation: u32,
    random: usize,
    tally: &mut Tally,
) {
    let words = publish(kernel, image, generation);
    let tags: Vec<_> = world
        .tags
        .iter()
        .enumerate()
        .map(|(slot, (_, mark, tier))| Tagged {
            slot: slot as u8,
            mark: *mark,
            tier,
            enforce: true,
        })
        .collect();
    let mut rng = Rng::new(generation.into());
    let edges: Vec<IpAddr> = world.prefixes.iter().flat_map(Prefix::edges).collect();
    run(kernel, &words, &world.rows, &tags, &edges, &world.prefixes, random, &mut rng, tally);
}

/// The embedded profile on the embedded data: every interval's edges, and random destinations.
///
/// The profile's tiers are restated here by hand, as its text describes them; the model never sees
/// the TOML.
pub(crate) fn embedded_default(kernel: Option<&Kernel>, random: usize) -> Tally {
    let dataset = Dataset::embedded().expect("the embedded data are sound");
    let text = policy::profile(policy::profile::DEFAULT).expect("the default profile");
    let words = publish(kernel, &compile(text, Some(&dataset)), 1);
    let zones = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
    let tier = |name: &str, control: &[&str]| Tier {
        name: name.into(),
        location: vec!["JP".into()],
        control: control.iter().map(|c| (*c).to_owned()).collect(),
        min_sources: 2,
        zones: zones.iter().map(|zone| zone.parse().expect("a prefix")).collect(),
        ..Tier::default()
    };
    let (sovereign, general) = (tier("sovereign", &["JP"]), tier("general", &["JP", "US"]));
    let tags = [
        Tagged { slot: 0, mark: 0x5300, tier: &sovereign, enforce: false },
        Tagged { slot: 1, mark: 0x47ff, tier: &general, enforce: false },
    ];
    let rows = generate::rows_of(&dataset);
    // Neighbouring intervals share an edge: a start and the address before it are enough.
    let edges: Vec<IpAddr> =
        rows.ranges().flat_map(|(first, _)| [Some(first), offset(first, -1)]).flatten().collect();
    let prefixes: Vec<Prefix> = zones.iter().map(|zone| zone.parse().expect("a prefix")).collect();
    let japan: Vec<Prefix> = rows
        .ranges()
        .filter(|(first, _)| {
            let known = rows.find(*first).map(|known| &known.location);
            known == Some(&Location::Country("JP".into()))
        })
        .map(|(first, _)| Prefix::new(first, if first.is_ipv4() { 24 } else { 40 }))
        .collect();
    eprintln!("{} edges, {} Japanese intervals", edges.len(), japan.len());
    let mut tally = Tally::default();
    let mut rng = Rng::new(0x6a70);
    run(kernel, &words, &rows, &tags[..1], &edges, &japan, random, &mut rng, &mut tally);
    let few: Vec<IpAddr> = prefixes.iter().flat_map(Prefix::edges).collect();
    run(kernel, &words, &rows, &tags, &few, &japan, random, &mut rng, &mut tally);
    tally
}
