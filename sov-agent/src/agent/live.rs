//! From a policy to the live image: the host's numbers, compile, publish, remember.

use std::{fs, path::Path, sync::Arc};

use rustix::time::{ClockId, clock_gettime};

use super::{core::StartError, recorder::Recorder, write_atomically};
use crate::{
    cli::inputs,
    data::dataset::Dataset,
    datapath::{CgroupRoot, Datapath, DatapathError, interfaces},
    policy::{self, Environment, Parsed, PolicyMeta, Unresolved, image::Image, model::Selector},
};

/// The live image and what its numbers mean.
pub(super) struct Live {
    pub(super) generation: u32,
    pub(super) meta: Arc<PolicyMeta>,
    /// Unix seconds minus seconds since boot, as the image has it.
    epoch: u32,
    pub(super) environment: Environment,
    pub(super) unresolved: Vec<Unresolved>,
    /// Unix seconds.
    pub(super) applied: u64,
}

/// Nanoseconds since boot, suspend included.
pub(super) fn boottime() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

impl Live {
    /// The wall clock still is where it was when the image was made live.
    pub(super) fn clock_holds(&self) -> bool {
        self.epoch.abs_diff(epoch()) <= 1
    }

    /// Compiles and publishes. `before` is the generation in force and its names; equal content is
    /// taken over as it is.
    pub(super) fn publish(
        datapath: &mut Datapath,
        parsed: &Parsed,
        data: &Dataset,
        cgroups: Option<&CgroupRoot>,
        before: Option<(u32, Arc<PolicyMeta>)>,
        recorder: &mut Recorder,
        file: &Path,
    ) -> Result<Self, StartError> {
        let now = inputs::now();
        let empty = PolicyMeta::default();
        let known = before.as_ref().map_or(&empty, |(_, meta)| meta);
        let environment = environment(parsed, cgroups, known)?;
        let compiled = policy::compile(parsed, data, &environment, now).map_err(|findings| {
            StartError::Policy {
                name: parsed.source.name.clone(),
                errors: findings.iter().filter(|f| f.is_error()).count(),
                findings,
                source_text: Box::new(parsed.clone()),
            }
        })?;
        let meta = Arc::new(compiled.meta);
        let live = datapath.live()?;
        let epoch = epoch();
        let same = live.filter(|l| {
            l.content_hash == compiled.image.content_hash() && l.epoch.abs_diff(epoch) <= 1
        });
        let generation = match same {
            Some(live) => live.generation,
            None => live.map_or(0, |l| l.generation).wrapping_add(1).max(1),
        };
        // Names first: the first event may come before publish returns.
        recorder.learn(generation, Arc::clone(&meta));
        if same.is_none() {
            datapath.publish(&compiled.image.live(generation, epoch))?;
            if let Err(e) = write_atomically(file, &compiled.image.to_bytes()) {
                log::warn!(
                    "{}: {e}; a restarted agent will not know the tags' names",
                    file.display()
                );
            }
        }
        Ok(Self {
            generation,
            meta,
            epoch,
            environment,
            unresolved: compiled.unresolved,
            applied: now,
        })
    }
}

/// Unix time minus time since boot, in seconds.
fn epoch() -> u32 {
    inputs::now().saturating_sub(boottime() / 1_000_000_000) as u32
}

/// What was live when the last agent went away: its generation and names.
pub(super) fn saved(
    file: &Path,
    datapath: &Datapath,
) -> Result<Option<(u32, Arc<PolicyMeta>)>, DatapathError> {
    let Some(live) = datapath.live()? else { return Ok(None) };
    let image = fs::read(file).ok().and_then(|bytes| Image::from_bytes(&bytes).ok());
    let meta = image
        .filter(|image| image.content_hash() == live.content_hash)
        .and_then(|image| serde_json::from_slice(image.metadata()).ok());
    Ok(meta.map(|meta| (live.generation, Arc::new(meta))))
}

/// The numbers that this host has for the names in the policy. Cgroups that are named are made, so
/// that a workload started there later is tagged from its first packet.
pub(super) fn environment(
    parsed: &Parsed,
    cgroups: Option<&CgroupRoot>,
    known: &PolicyMeta,
) -> Result<Environment, DatapathError> {
    let mut environment = Environment::default();
    let present = interfaces()
        .map_err(|source| DatapathError::System { what: "listing interfaces".into(), source })?;
    for selector in selectors(parsed) {
        match selector {
            Selector::Cgroup(path) => {
                if let Some(root) = cgroups {
                    let cgroup = root.ensure(path)?;
                    environment.cgroups.insert(path.clone(), (cgroup.id, cgroup.depth));
                }
            }
            Selector::Interface(name) => {
                if let Some(found) = present.iter().find(|i| i.name == *name) {
                    environment.interfaces.insert(name.clone(), found.index);
                }
            }
            _ => {}
        }
    }
    for tag in &known.tags {
        environment.tag_slots.insert(tag.name.clone(), tag.slot);
    }
    Ok(environment)
}

/// Some selector names a cgroup.
pub(super) fn names_cgroups(parsed: &Parsed) -> bool {
    selectors(parsed).any(|selector| matches!(selector, Selector::Cgroup(_)))
}

/// Every selector of the policy.
pub(super) fn selectors(parsed: &Parsed) -> impl Iterator<Item = &Selector> {
    parsed.policy.tags.iter().flat_map(|tag| &tag.select).map(|select| &select.value)
}
