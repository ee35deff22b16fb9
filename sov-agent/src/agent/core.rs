//! Starting, reloading and the regular work of a node.

use std::{fs, io, path::PathBuf, sync::Arc, time::Instant};

use super::{
    Config,
    live::{self, Live, Origin, Saved},
    recorder::Recorder,
    wiring::Wiring,
};
use crate::{
    cli::inputs,
    data::dataset::Dataset,
    datapath::{CgroupRoot, Datapath, DatapathError, KernelLog, Options},
    flowlog::{
        enrich::{Clock, Enricher},
        host::{LiveFacts, cgroup_root},
        journal::{Journal, JournalError, Settings},
        record::Host,
    },
    policy::{Diagnostic, Parsed},
};

/// Why a node does not start, or a reload changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the policy {name} has {errors} errors; nothing was changed")]
    Policy { name: String, errors: usize, findings: Vec<Diagnostic>, source_text: Box<Parsed> },
    #[error("{0:#}")]
    Input(anyhow::Error),
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(
        "{source}; generation {generation} of {name} is live all the same and stays in force on {links} \
         links, what is named here is not guarded. `sov-agent detach` removes them"
    )]
    Attach { source: Box<DatapathError>, name: String, generation: u32, links: usize },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl StartError {
    /// The first finding of a policy, else the error itself: one line.
    fn why(&self) -> String {
        let Self::Policy { findings, .. } = self else { return self.to_string() };
        findings
            .iter()
            .find(|f| f.is_error())
            .map_or_else(|| self.to_string(), |f| f.message.clone())
    }
}

/// A running node.
pub struct Core {
    pub(super) config: Config,
    pub(super) datapath: Datapath,
    /// `None` where no cgroup v2 hierarchy is mounted: no socket hooks.
    pub(super) cgroups: Option<CgroupRoot>,
    pub(super) data: Arc<Dataset>,
    pub(super) origin: Origin,
    pub(super) live: Live,
    pub(super) wiring: Wiring,
    pub(super) recorder: Recorder,
    pub(super) started: u64,
    pub(super) since: Instant,
    kernel_log: Option<KernelLog>,
    last_check: Instant,
}

impl Core {
    /// Compiles, loads, publishes, attaches. On an error nothing that was live has changed, unless the
    /// error says so ([`StartError::Attach`]).
    ///
    /// Policy or data that cannot be used after a boot: the image that was live last goes live again.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let started = inputs::now();
        let image_file = config.paths.live_image();
        let mut unusable = None;
        let (mut origin, data) = match (read(&config, started), Saved::read(&image_file)) {
            (Ok((parsed, data)), _) => (Origin::Policy(Box::new(parsed)), data),
            (Err(e), Some(saved)) => {
                let why = format!("{e}");
                unusable = Some(e);
                let data = Dataset::embedded().map_err(|e| StartError::Input(e.into()))?;
                (Origin::Saved { saved, why }, data)
            }
            (Err(e), None) => return Err(e),
        };
        let data = Arc::new(data);
        let cgroups = match CgroupRoot::discover(config.paths.cgroups.as_deref()) {
            Ok(root) => Some(root),
            Err(e) if config.paths.cgroups.is_some() || !origin.names().cgroups.is_empty() => {
                return Err(e.into());
            }
            Err(e) => {
                log::warn!("{e}; blocked connections are not refused at once, their packets are");
                None
            }
        };
        for path in [&config.paths.state, &config.paths.run] {
            fs::create_dir_all(path)
                .map_err(|source| StartError::Io { path: path.clone(), source })?;
        }
        // The journal's lock is what keeps a second agent out.
        let settings = Settings::new(config.paths.journal());
        let (journal, repairs) = Journal::open(settings, Clock::sample().unix(live::boottime()))?;
        for repair in repairs {
            log::warn!(
                "journal {}: a torn line at byte {} was set aside",
                repair.segment.display(),
                repair.offset
            );
        }
        let facts = Box::new(LiveFacts::new(cgroup_root()));
        let enricher = Enricher::new(Host::current(), Clock::sample(), Arc::clone(&data), facts);

        let mut datapath = Datapath::load(&Options {
            pins: config.paths.pins.clone(),
            pass_is_final: config.pass_is_final,
            reject_rate: config.reject_rate,
            tc: config.tc,
            log: config.kernel_log,
        })?;
        let events = datapath.take_events()?;
        let mut recorder = Recorder::new(events, enricher, journal, config.paths.told());
        let saved = live::saved(&config.paths.live_image(), &datapath)?;
        if let Some((generation, meta)) = &saved {
            recorder.learn(*generation, Arc::clone(meta));
        }
        let was_live = datapath.live()?.is_some();
        if let Some(e) = unusable
            && was_live
        {
            // What is live goes on without an agent, as it did.
            return Err(e);
        }
        let mut publish = |origin: &Origin, recorder: &mut Recorder| {
            let cgroups = cgroups.as_ref();
            let saved = saved.clone();
            Live::publish(&mut datapath, origin, &data, cgroups, saved, recorder, &image_file)
        };
        let live = match publish(&origin, &mut recorder) {
            Err(e @ StartError::Policy { .. }) if !was_live => {
                let Some(saved) = Saved::read(&image_file) else { return Err(e) };
                report(&e);
                origin = Origin::Saved { saved, why: e.why() };
                publish(&origin, &mut recorder)?
            }
            result => result?,
        };
        if let Origin::Saved { saved, why } = &origin {
            log::error!("{why}");
            log::error!("the image of {} that was live last is restored", saved.meta.name);
        }
        let kernel_log = config.kernel_log.and_then(|_| datapath.kernel_log());
        let mut core = Self {
            wiring: Wiring::new(&config.interfaces, &config.xdp)?,
            config,
            datapath,
            cgroups,
            data,
            origin,
            live,
            recorder,
            started,
            since: Instant::now(),
            kernel_log,
            last_check: Instant::now(),
        };
        let attached = core.attach();
        give_back();
        match attached {
            Ok(()) => Ok(core),
            Err(e) => Err(StartError::Attach {
                source: Box::new(e),
                name: core.live.meta.name.clone(),
                generation: core.live.generation,
                links: core.pinned_links(),
            }),
        }
    }

    /// Interfaces before sockets: packets are the boundary.
    fn attach(&mut self) -> Result<(), DatapathError> {
        let names = self.origin.names();
        self.datapath.prepare(self.cgroups.is_some());
        let interfaces = self.wiring.rescan(&mut self.datapath, &self.live.meta, &names);
        if let Some(root) = &self.cgroups {
            self.wiring.attach_sockets(&mut self.datapath, root)?;
        }
        interfaces?;
        // All is in place: what an agent of another version left in force may go.
        let pins = self.datapath.pins();
        let retired = pins
            .retire_others()
            .map_err(|source| DatapathError::Pin { path: pins.path().to_path_buf(), source })?;
        for (folder, links) in retired {
            log::info!(
                "{}: an agent of another version was taken over; {links} links that nobody needs were removed",
                folder.display()
            );
        }
        Ok(())
    }

    /// Why the image of an earlier boot is in force; `None` = the policy's own is.
    pub(super) fn restored(&self) -> Option<&str> {
        match &self.origin {
            Origin::Policy(_) => None,
            Origin::Saved { why, .. } => Some(why),
        }
    }

    /// Events to records; interfaces and cgroups as they are now.
    pub(super) fn tick(&mut self) {
        if let Some(log) = &mut self.kernel_log {
            log.flush();
        }
        self.recorder.tick(&self.datapath);
        let changed = self.wiring.changed();
        if changed || self.last_check.elapsed().as_millis() >= 500 {
            self.last_check = Instant::now();
            if !self.live.clock_holds() {
                // Someone set the clock: rules expire by the new one.
                self.republish();
            }
            // The image knows interfaces and cgroups by number: new numbers, new image. First the image,
            // then the links: what is attached is judged by what it is.
            let names = self.origin.names();
            match live::environment(&names, self.cgroups.as_ref(), &self.live.meta) {
                Ok(environment)
                    if environment.cgroups != self.live.environment.cgroups
                        || environment.interfaces != self.live.environment.interfaces =>
                {
                    if !self.republish() {
                        // Said once; tried again when something changes again.
                        self.live.environment = environment;
                    }
                }
                Ok(_) => {}
                Err(e) => log::error!("{e}"),
            }
            if let Err(e) = self.wiring.rescan(&mut self.datapath, &self.live.meta, &names) {
                log::error!("{e}");
            }
        }
    }

    /// Reads policy and data again. What cannot be used changes nothing.
    pub(super) fn reload(&mut self) {
        match read(&self.config, inputs::now()) {
            Ok((parsed, data)) => {
                let (old_origin, old_data) = (
                    std::mem::replace(&mut self.origin, Origin::Policy(Box::new(parsed))),
                    std::mem::replace(&mut self.data, Arc::new(data)),
                );
                if self.republish() {
                    self.recorder.use_data(Arc::clone(&self.data));
                } else {
                    self.origin = old_origin;
                    self.data = old_data;
                }
            }
            Err(e) => report(&e),
        }
    }

    /// A new image from the policy and data at hand; `false` = the old one goes on.
    fn republish(&mut self) -> bool {
        let before = Some((self.live.generation, Arc::clone(&self.live.meta)));
        match Live::publish(
            &mut self.datapath,
            &self.origin,
            &self.data,
            self.cgroups.as_ref(),
            before,
            &mut self.recorder,
            &self.config.paths.live_image(),
        ) {
            Ok(live) => {
                log::info!("generation {} is live: {}", live.generation, live.meta.name);
                self.live = live;
                if self.config.kernel_log.is_some()
                    && let Some(log) = self.datapath.kernel_log()
                {
                    self.kernel_log = Some(log);
                }
                give_back();
                true
            }
            Err(e) => {
                report(&e);
                false
            }
        }
    }

    /// Everything that the kernel counted so far goes on record.
    pub(super) fn flush(&mut self) {
        self.recorder.flush(&self.datapath);
    }

    /// Removes every link and map: enforcement ends.
    pub fn detach(mut self) -> io::Result<()> {
        self.datapath.pins().remove_links()?;
        // What was counted up to the last moment; then the tables go.
        self.recorder.flush(&self.datapath);
        self.datapath.pins().remove().map(|_| ())
    }

    pub fn pinned_links(&self) -> usize {
        self.datapath.pins().links().map_or(0, |links| links.len())
    }

    pub fn pin_folder(&self) -> PathBuf {
        self.datapath.pins().path().to_path_buf()
    }
}

/// Compiling takes tens of MiB that nobody needs until the next policy: the allocator keeps them unless
/// it is told.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: frees nothing that is in use; thread-safe (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

fn read(config: &Config, now: u64) -> Result<(Parsed, Dataset), StartError> {
    let source = inputs::read_policy(config.policy.as_deref(), None).map_err(StartError::Input)?;
    let data = inputs::read_data(config.data.as_deref(), now).map_err(StartError::Input)?;
    Ok((crate::policy::parse(source), data))
}

/// The error, and for a policy every finding with its line.
pub(crate) fn report(error: &StartError) {
    if let StartError::Policy { findings, source_text, .. } = error {
        for finding in findings {
            log::error!("{}", finding.render(&source_text.source, false));
        }
    }
    log::error!("{error}");
}
