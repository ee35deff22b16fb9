//! The end of everything: whatever ends the demonstration, nothing of it stays.
//!
//! Namespaces, mounts, links and maps have no names and go with the stage's processes, which die with
//! their parent. The cgroup folder has a name: a janitor process holds one end of a pipe, and removes
//! the folder when the other end is closed, by whatever death. If the janitor is killed as well, the
//! next run removes the folder.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::pipe::{PipeFlags, pipe_with};

use super::lab::die_with_parent;
use crate::datapath::CgroupRoot;

const PREFIX: &str = "sovdemo-";
/// Groups of processes below the folder.
pub const PLAIN: &str = "plain";
const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD];

/// How the stage ended.
pub enum End {
    Exited(ExitStatus),
    /// By this signal to the guard; the stage was killed.
    Interrupted(i32),
}

/// Makes the cgroup folder, runs the stage, cleans up.
///
/// Must be called while the process has one thread. `stage` gets the folder, or why there is none.
pub fn watch(stage: impl FnOnce(Result<&Path, &str>) -> Command) -> anyhow::Result<End> {
    let folder = cgroup_folder();
    let janitor = match &folder {
        Ok(folder) => Some(Janitor::start(folder)?),
        Err(_) => None,
    };
    let result = run(stage(folder.as_deref().map_err(String::as_str)));
    if let Some(janitor) = janitor {
        janitor.finish();
    }
    result
}

fn run(mut command: Command) -> anyhow::Result<End> {
    let set = block_signals()?;
    let start = || {
        // A mask is inherited, and the agent below waits for SIGINT.
        // SAFETY: async-signal-safe calls on a live set.
        unsafe {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
        die_with_parent()
    };
    // SAFETY: plain system calls, no allocation.
    unsafe { command.pre_exec(start) };
    let mut child = command.spawn().context("the demonstration's stage cannot be started")?;
    loop {
        let mut signal = 0;
        // SAFETY: both are live for the call.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
            bail!("waiting for signals: {}", io::Error::last_os_error());
        }
        if signal != libc::SIGCHLD {
            end(&mut child);
            return Ok(End::Interrupted(signal));
        }
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
    }
}

fn end(child: &mut Child) {
    // Both fail only where the child is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// From now on the signals wait until they are asked for.
fn block_signals() -> anyhow::Result<libc::sigset_t> {
    // SAFETY: the set is filled in before it is used; all pointers are live.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => bail!("blocking signals: {}", io::Error::from_raw_os_error(error)),
        }
    }
}

/// Ends this process by the signal that it was sent, as its caller expects.
pub fn die_by(signal: i32) -> ! {
    // SAFETY: default action and unblocked; nothing of this process is used afterwards.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::signal(signal, libc::SIG_DFL);
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
    #[expect(clippy::disallowed_methods, reason = "the signal did not end the process")]
    std::process::exit(128 + signal)
}

/// Words for a stage that did not exit by itself.
pub fn death(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("the demonstration's stage was ended by signal {signal}"),
        None => format!("the demonstration's stage ended: {status}"),
    }
}

/// A folder of this run in the cgroup v2 hierarchy, or why there is none. Folders of runs that are
/// no more are removed.
fn cgroup_folder() -> Result<PathBuf, String> {
    let root = CgroupRoot::discover(None).map_err(|e| e.to_string())?;
    for entry in fs::read_dir(root.path()).map_err(|e| e.to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&entry.path());
        }
    }
    let folder = root.path().join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir_all(folder.join(PLAIN)).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

/// Removes a cgroup and those below it, once their processes are gone.
fn remove(folder: &Path) {
    for _ in 0..500 {
        if remove_once(folder).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    log::warn!("cgroup {} is still in use and stays; remove it with rmdir", folder.display());
}

fn remove_once(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

struct Janitor {
    pid: rustix::process::Pid,
    alive: OwnedFd,
}

impl Janitor {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let (watched, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the process has one thread (see `watch`), so the child may do what any process may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("the janitor cannot be started"),
            0 => {
                drop(alive);
                clean_up_after(&watched, folder);
                // SAFETY: nothing of the parent's is flushed or run.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self {
                pid: rustix::process::Pid::from_raw(pid).context("fork gave no pid")?,
                alive,
            }),
        }
    }

    fn finish(self) {
        drop(self.alive);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
}

/// The janitor's life.
fn clean_up_after(watched: &OwnedFd, folder: &Path) {
    // Ctrl-C reaches the whole group of the terminal; the janitor leaves it.
    let _ = rustix::process::setsid();
    // Whoever reads the demonstration's output must not wait for the janitor.
    if let Ok(null) = fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    // Nobody writes: this returns when the guard is gone.
    let mut byte = [0];
    while rustix::io::read(watched.as_fd(), &mut byte) == Err(rustix::io::Errno::INTR) {}
    remove(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_what_is_below_them() {
        let dir = tempfile::tempdir().expect("temp dir");
        let folder = dir.path().join("sovdemo-1");
        fs::create_dir_all(folder.join("a/b")).expect("mkdir");
        remove(&folder);
        assert!(!folder.exists());
        remove(&folder);
    }

    #[test]
    fn the_janitor_cleans_when_the_pipe_closes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (watched, alive) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let folder = dir.path().join("sovdemo-2");
        fs::create_dir_all(folder.join(PLAIN)).expect("mkdir");
        drop(alive);
        let mut byte = [0];
        assert_eq!(rustix::io::read(&watched, &mut byte), Ok(0));
        remove(&folder);
        assert!(!folder.exists());
    }
}
