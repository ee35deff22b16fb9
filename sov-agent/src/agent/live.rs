//! From a policy to the live image: the host's numbers, compile, publish, remember. And back: the image
//! of the last boot, where policy or data can no longer be used.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use rustix::time::{ClockId, clock_gettime};

use super::{core::StartError, recorder::Recorder, write_atomically};
use crate::{
    cli::inputs,
    data::dataset::Dataset,
    datapath::{CgroupRoot, Datapath, DatapathError, interfaces},
    policy::{
        self, Environment, Parsed, PolicyMeta, Unresolved,
        image::{Image, Numbers},
        model::Selector,
    },
};

/// Where images come from.
pub(super) enum Origin {
    Policy(Box<Parsed>),
    /// The image that was live last; `why` the policy or the data made no new one.
    Saved {
        saved: Saved,
        why: String,
    },
}

/// The image file, read and checked.
#[derive(Clone)]
pub(super) struct Saved {
    image: Image,
    pub(super) meta: Arc<PolicyMeta>,
}

/// What selectors name on this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) cgroups: BTreeSet<String>,
    pub(super) interfaces: BTreeSet<String>,
}

impl Origin {
    pub(super) fn names(&self) -> Names {
        let mut names = Names::default();
        match self {
            Self::Policy(parsed) => {
                let tags = parsed.policy.tags.iter();
                for selector in tags.flat_map(|tag| &tag.select) {
                    match &selector.value {
                        Selector::Cgroup(path) => names.cgroups.insert(path.clone()),
                        Selector::Interface(name) => names.interfaces.insert(name.clone()),
                        _ => false,
                    };
                }
            }
            Self::Saved { saved, .. } => {
                for tag in &saved.meta.tags {
                    names.cgroups.extend(tag.cgroups.iter().cloned());
                    names.interfaces.extend(tag.interfaces.iter().cloned());
                }
            }
        }
        names
    }
}

impl Saved {
    /// `None` when there is no such file; one that cannot be used is named in the log.
    pub(super) fn read(file: &Path) -> Option<Self> {
        let bytes = fs::read(file).ok()?;
        let image = Image::from_bytes(&bytes)
            .inspect_err(|e| log::error!("{}: {e}; it is not used", file.display()))
            .ok()?;
        let meta = serde_json::from_slice(image.metadata())
            .inspect_err(|e| log::error!("{}: names: {e}; it is not used", file.display()))
            .ok()?;
        Some(Self { image, meta: Arc::new(meta) })
    }

    /// The image for the numbers that cgroups and interfaces have now.
    fn rebound(&self, environment: &Environment) -> Result<(Image, Vec<Unresolved>), StartError> {
        let mut numbers = Numbers::default();
        let mut unresolved = Vec::new();
        for tag in &self.meta.tags {
            let mut missing = |kind, name: &String| {
                unresolved.push(Unresolved { tag: tag.name.clone(), kind, name: name.clone() });
            };
            for path in &tag.cgroups {
                match environment.cgroups.get(path) {
                    Some((id, depth)) => numbers.cgroups.push((*id, *depth, tag.slot)),
                    None => missing("cgroup", path),
                }
            }
            for name in &tag.interfaces {
                match environment.interfaces.get(name) {
                    Some(index) => numbers.interfaces.push((*index, tag.slot)),
                    None => missing("interface", name),
                }
            }
        }
        let image = self.image.rebind(&self.meta.tags, &numbers);
        let image = image.map_err(|e| StartError::Input(anyhow::Error::new(e)))?;
        Ok((image, unresolved))
    }
}

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

    /// Compiles (or takes the saved image) and publishes. `before` is the generation in force and its
    /// names; equal content is taken over as it is.
    pub(super) fn publish(
        datapath: &mut Datapath,
        origin: &Origin,
        data: &Dataset,
        cgroups: Option<&CgroupRoot>,
        before: Option<(u32, Arc<PolicyMeta>)>,
        recorder: &mut Recorder,
        file: &Path,
    ) -> Result<Self, StartError> {
        let now = inputs::now();
        let empty = PolicyMeta::default();
        let known = before.as_ref().map_or(&empty, |(_, meta)| meta);
        let environment = environment(&origin.names(), cgroups, known)?;
        let (image, meta, unresolved) = match origin {
            Origin::Policy(parsed) => {
                let compiled = policy::compile(parsed, data, &environment, now).map_err(|f| {
                    StartError::Policy {
                        name: parsed.source.name.clone(),
                        errors: f.iter().filter(|f| f.is_error()).count(),
                        findings: f,
                        source_text: parsed.clone(),
                    }
                })?;
                (compiled.image, Arc::new(compiled.meta), compiled.unresolved)
            }
            Origin::Saved { saved, .. } => {
                let (image, unresolved) = saved.rebound(&environment)?;
                (image, Arc::clone(&saved.meta), unresolved)
            }
        };
        let live = datapath.live()?;
        let epoch = epoch();
        let same =
            live.filter(|l| l.content_hash == image.content_hash() && l.epoch.abs_diff(epoch) <= 1);
        let generation = match same {
            Some(live) => live.generation,
            None => live.map_or(0, |l| l.generation).wrapping_add(1).max(1),
        };
        // Names first: the first event may come before publish returns.
        recorder.learn(generation, Arc::clone(&meta));
        if same.is_none() {
            datapath.publish(&image.live(generation, epoch))?;
        }
        if (same.is_none() || !file.exists())
            && let Err(e) = write_atomically(file, &image.to_bytes())
        {
            log::error!(
                "{}: {e}; a restarted agent will not know the tags' names, and after a boot it cannot \
                 fall back on this image",
                file.display()
            );
        }
        let applied = now;
        Ok(Self { generation, meta, epoch, environment, unresolved, applied })
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
    names: &Names,
    cgroups: Option<&CgroupRoot>,
    known: &PolicyMeta,
) -> Result<Environment, DatapathError> {
    let mut environment = Environment::default();
    let present = interfaces()
        .map_err(|source| DatapathError::System { what: "listing interfaces".into(), source })?;
    if let Some(root) = cgroups {
        for path in &names.cgroups {
            let cgroup = root.ensure(path)?;
            environment.cgroups.insert(path.clone(), (cgroup.id, cgroup.depth));
        }
    }
    for interface in present {
        if names.interfaces.contains(&interface.name) {
            environment.interfaces.insert(interface.name, interface.index);
        }
    }
    for tag in &known.tags {
        environment.tag_slots.insert(tag.name.clone(), tag.slot);
    }
    Ok(environment)
}
