//! The stage's own mounts: a tmpfs for the agent's files and a bpffs for its pins, seen by nobody else.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    thread::UnshareFlags,
};

use super::stage::Setting;

/// A tmpfs and a bpffs that only this process and its children see.
pub struct Room(PathBuf);

impl Room {
    pub fn new(setting: &Setting) -> anyhow::Result<Self> {
        // SAFETY: the stage has one thread and shares no mounts, descriptors or working folder.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .context("a mount namespace cannot be made; the demonstration needs CAP_SYS_ADMIN")?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        if setting.cgroup.is_err() {
            // With no folder of its own the agent would guard the sockets of the whole host.
            while let Ok(root) = crate::datapath::CgroupRoot::discover(None) {
                unmount(root.path(), UnmountFlags::DETACH)?;
            }
        }
        let at = ["/mnt", "/media", "/tmp"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.is_dir() && !setting.program.starts_with(path))
            .context("there is none of /mnt, /media, /tmp to mount a tmpfs on")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("sovdemo", &at, "tmpfs", flags, Some(c"mode=0700"))
            .with_context(|| format!("mounting a tmpfs on {}", at.display()))?;
        let room = Self(at);
        fs::create_dir(room.bpf())?;
        mount("sovdemo", room.bpf(), "bpf", flags, Some(c"mode=0700"))
            .context("mounting a bpffs; the kernel needs CONFIG_BPF_SYSCALL")?;
        Ok(room)
    }

    pub fn bpf(&self) -> PathBuf {
        self.0.join("bpf")
    }

    pub fn pins(&self) -> PathBuf {
        self.bpf().join("sov")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub fn journal(&self) -> PathBuf {
        self.state().join("flows")
    }

    pub fn socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("agent.log")
    }

    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub fn policy(&self) -> PathBuf {
        self.0.join("policy.toml")
    }
}
