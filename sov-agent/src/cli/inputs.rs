//! What several verbs read: a policy, data, the time, lines of stdin. Prints diagnostics, decides nothing.

use std::{
    fs::File,
    io::{self, BufRead, Read as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use ipnet::Ipv6Net;

use super::{Global, logging, output};
use crate::{
    data::dataset::Dataset,
    policy::{
        self, Compiled, Diagnostic, Environment, Parsed, PolicyMeta, Source,
        diagnostic::{MAX_DIAGNOSTICS, MAX_SOURCE_BYTES},
        meta::TagMeta,
        parse::closest,
        profile,
    },
};

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The text of a policy file (`-` = stdin), of an embedded profile, or of the default profile.
pub fn read_policy(file: Option<&Path>, profile: Option<&str>) -> anyhow::Result<Source> {
    let Some(path) = file else {
        let name = profile.unwrap_or(profile::DEFAULT);
        let Some(text) = policy::profile(name) else {
            let known: Vec<_> = profile::PROFILES.iter().map(|profile| profile.0).collect();
            bail!(
                "there is no embedded profile `{}`; known are {}",
                name.escape_debug(),
                known.join(", ")
            );
        };
        return Ok(Source::new(name, text));
    };
    let mut bytes = Vec::new();
    // One byte more than is accepted, so that a larger file is seen to be one.
    let limit = MAX_SOURCE_BYTES as u64 + 1;
    let name = path.display().to_string();
    if name == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read stdin")?;
        return Ok(Source::from_bytes("stdin", &bytes));
    }
    let file = File::open(path).with_context(|| format!("cannot open the policy {name}"))?;
    file.take(limit)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read the policy {name}"))?;
    Ok(Source::from_bytes(name, &bytes))
}

/// The data folder, or the embedded data. Their age is judged where a policy says how old they may be.
pub fn read_data(dir: Option<&Path>, now: u64) -> anyhow::Result<Dataset> {
    match dir {
        Some(dir) => Dataset::load(dir, now, None).context("the data folder was not used"),
        None => Ok(Dataset::embedded()?),
    }
}

/// The NAT64 prefixes that a policy file names. A file with errors has none that count.
pub fn read_nat64(path: &Path, global: &Global) -> anyhow::Result<Vec<Ipv6Net>> {
    let parsed = policy::parse(read_policy(Some(path), None)?);
    let errors: Vec<_> = parsed.findings.iter().filter(|finding| finding.is_error()).collect();
    if errors.is_empty() {
        return Ok(parsed.policy.nat64.iter().map(|prefix| prefix.value).collect());
    }
    for finding in errors.iter().take(MAX_DIAGNOSTICS) {
        logging::plain(&finding.render(&parsed.source, output::use_color(global.color)));
    }
    bail!("the policy {} has {} errors", parsed.source.name, errors.len())
}

/// Compiles for a verb that only wants the result: diagnostics go to stderr, errors end the verb.
pub fn compile_or_report(
    parsed: &Parsed,
    data: &Dataset,
    env: &Environment,
    now: u64,
    global: &Global,
) -> anyhow::Result<Compiled> {
    let color = output::use_color(global.color);
    match policy::compile(parsed, data, env, now) {
        Ok(compiled) => {
            for warning in &compiled.warnings {
                log::info!("{}", warning.render(&parsed.source, false));
            }
            Ok(compiled)
        }
        Err(findings) => {
            let errors: Vec<_> = findings.into_iter().filter(Diagnostic::is_error).collect();
            for finding in errors.iter().take(MAX_DIAGNOSTICS) {
                logging::plain(&finding.render(&parsed.source, color));
            }
            bail!(
                "the policy {} has {} errors; nothing was changed",
                parsed.source.name,
                errors.len()
            )
        }
    }
}

/// A tag of the policy, by name; an unknown name is an error with a hint.
pub fn tag<'a>(meta: &'a PolicyMeta, name: &str) -> anyhow::Result<&'a TagMeta> {
    if let Some(tag) = meta.tag(name) {
        return Ok(tag);
    }
    let known: Vec<_> = meta.tags.iter().map(|tag| tag.name.as_str()).collect();
    let hint = match closest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    bail!("the policy has no tag `{}`; {hint}", name.escape_debug())
}

/// Longest accepted line of a batch, in bytes.
const MAX_LINE: u64 = 512;

/// Calls `each` with the number and text of every line of stdin that is not empty or a comment; `idle`
/// whenever no more input is waiting, so that whoever writes line by line gets answers line by line.
/// A line that is too long comes as `None`.
pub fn for_each_line<S>(
    state: &mut S,
    mut each: impl FnMut(&mut S, usize, Option<&str>) -> anyhow::Result<()>,
    mut idle: impl FnMut(&mut S) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut reader = io::BufReader::with_capacity(1 << 16, io::stdin().lock());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut bounded = reader.by_ref().take(MAX_LINE);
        if bounded.read_until(b'\n', &mut line).context("cannot read stdin")? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE {
            reader.skip_until(b'\n').context("cannot read stdin")?;
            each(state, number, None)?;
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() && !text.starts_with('#') {
            each(state, number, Some(text))?;
        }
        if reader.buffer().is_empty() {
            idle(state)?;
        }
    }
    Ok(())
}
