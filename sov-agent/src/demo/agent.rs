//! The demonstration's agent: `sov-agent run`, as an operator starts it, in the workload's namespace.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{lab::Lab, room::Room, stage::Setting};
use crate::control::{client, status::Status};

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Dropped, it is killed.
pub struct Agent {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    pub fn start(room: &Room, setting: &Setting, lab: &Lab, policy: &str) -> anyhow::Result<Self> {
        let file = room.policy();
        fs::write(&file, policy)?;
        let mut command: Command = lab.workload.command(&setting.program)?;
        command
            .args(["run", "--metrics", "off", "--detach", "--policy"])
            .arg(&file)
            .env("SOV_STATE_DIR", room.state())
            .env("SOV_RUN_DIR", room.run())
            .env("SOV_PIN_DIR", room.pins())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(room.log())?);
        match &setting.cgroup {
            Ok(folder) => command.env("SOV_CGROUP_ROOT", folder),
            Err(_) => command.env_remove("SOV_CGROUP_ROOT"),
        };
        let child = command.spawn().context("the agent cannot be started")?;
        let mut agent = Self { child, socket: room.socket(), log: room.log() };
        let start = Instant::now();
        while agent.status().is_err() {
            if let Some(status) = agent.child.try_wait()? {
                bail!("the agent did not start ({status}): {}", agent.last_words());
            }
            ensure!(
                start.elapsed() < START_LIMIT,
                "the agent does not answer: {}",
                agent.last_words()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(agent)
    }

    pub fn status(&self) -> anyhow::Result<Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(client::status(&self.socket))?)
    }

    /// SIGINT, as Ctrl-C.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("the agent has no pid")?;
        kill_process(pid, Signal::INT)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > STOP_LIMIT {
                let _ = self.child.kill();
                bail!("the agent did not stop: {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of what it said on stderr.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        // Without a log there is nothing to say.
        let _ = File::open(&self.log).and_then(|file| file.take(1 << 16).read_to_string(&mut text));
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After an error; an agent that was stopped is past both.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
