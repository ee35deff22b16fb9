//! The daemon: one policy, one datapath, one journal, kept together while interfaces and cgroups come
//! and go. Wires the modules; judges nothing itself.

mod core;
mod live;
mod recorder;
mod settings;
mod status;
mod told;
mod wiring;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use self::{
    core::{Core, StartError},
    settings::{Settings, SettingsError},
};
use crate::{
    control::{Control, StatusSource, status::Status},
    metrics::Metrics,
};

/// Folders of a node. Each can be moved by an environment variable.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `SOV_STATE_DIR`, /var/lib/sov: journal, the live image.
    pub state: PathBuf,
    /// `SOV_RUN_DIR`, /run/sov: control socket.
    pub run: PathBuf,
    /// `SOV_PIN_DIR`, /sys/fs/bpf/sov: links and maps.
    pub pins: PathBuf,
    /// `SOV_CGROUP_ROOT`: a folder of the cgroup v2 hierarchy that stands for its root.
    pub cgroups: Option<PathBuf>,
}

impl Paths {
    pub fn from_env() -> Self {
        let path = |name: &str, default: &str| {
            std::env::var_os(name).map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Self {
            state: path("SOV_STATE_DIR", "/var/lib/sov"),
            run: path("SOV_RUN_DIR", "/run/sov"),
            pins: path("SOV_PIN_DIR", "/sys/fs/bpf/sov"),
            cgroups: std::env::var_os("SOV_CGROUP_ROOT").map(PathBuf::from),
        }
    }

    pub fn journal(&self) -> PathBuf {
        self.state.join("flows")
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// How far the journal is.
    fn told(&self) -> PathBuf {
        self.state.join("told")
    }

    fn live_image(&self) -> PathBuf {
        self.state.join("live.image")
    }
}

/// What `run` was asked for.
#[derive(Clone, Debug)]
pub struct Config {
    pub paths: Paths,
    /// `None` = the embedded default profile.
    pub policy: Option<PathBuf>,
    pub data: Option<PathBuf>,
    /// Uplinks; empty = wherever a default route leads, now and later.
    pub interfaces: Vec<String>,
    /// A gateway's inside interfaces: XDP judges what they receive.
    pub xdp: Vec<String>,
    /// Packets that pass are final; otherwise the next tc program is asked.
    pub pass_is_final: bool,
    /// Resets and ICMP errors a second and CPU.
    pub reject_rate: u32,
    /// How programs are attached to interfaces.
    pub tc: crate::datapath::Tc,
    /// `None` = no metrics.
    pub metrics: Option<std::net::SocketAddr>,
    /// Level of the kernel-side log.
    pub kernel_log: Option<log::Level>,
}

/// How often events are read: a blocked flow is on record well within a second.
const TICK: Duration = Duration::from_millis(50);

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Stop,
    Reload,
}

/// Runs until SIGINT or SIGTERM; SIGHUP reads policy and data again. Returns the core, whose pins stay.
pub fn serve(core: Core, config: &Config) -> anyhow::Result<Core> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::new(Shared(Mutex::new(core)));
    runtime.block_on(async {
        let control = Control::bind(&config.paths.socket())?;
        let source: Arc<dyn StatusSource> = Arc::clone(&shared) as _;
        let metrics = match config.metrics {
            None => None,
            Some(address) => match Metrics::bind(address).await {
                Ok(metrics) => Some(metrics),
                // Enforcement does not depend on being watched.
                Err(e) => {
                    log::warn!("metrics are off: {:#}", anyhow::Error::new(e));
                    None
                }
            },
        };
        let scraped = Arc::clone(&source);
        let scrape = async move {
            match &metrics {
                Some(metrics) => metrics.serve(scraped).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = work(&shared) => result,
            () = control.serve(source) => Ok(()),
            () = scrape => Ok(()),
        }
    })?;
    drop(runtime);
    let shared = Arc::into_inner(shared)
        .ok_or_else(|| anyhow::anyhow!("a request was still being answered at the end"))?;
    Ok(shared.0.into_inner().unwrap_or_else(PoisonError::into_inner))
}

async fn work(shared: &Arc<Shared>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let signal = tokio::select! {
            _ = tick.tick() => None,
            _ = interrupt.recv() => Some(Signal::Stop),
            _ = terminate.recv() => Some(Signal::Stop),
            _ = hangup.recv() => Some(Signal::Reload),
        };
        let shared = Arc::clone(shared);
        // Reading the kernel's buffers and waiting for RCU both block.
        let going = tokio::task::spawn_blocking(move || {
            let mut core = shared.lock();
            match signal {
                None => core.tick(),
                Some(Signal::Reload) => core.reload(),
                Some(Signal::Stop) => {
                    core.flush();
                    return false;
                }
            }
            true
        })
        .await?;
        if !going {
            return Ok(());
        }
    }
}

/// The core, asked by the control socket while it works.
struct Shared(Mutex<Core>);

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Core> {
        // A panic in one request must not end the daemon's work.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusSource for Shared {
    fn status(&self) -> Result<Status, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.lock().status()?)
    }
}

/// Writes a file whole or not at all.
fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = std::fs::File::create(&beside)?;
    std::io::Write::write_all(&mut file, bytes)?;
    // Or a power failure could leave the new name with nothing in it.
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
