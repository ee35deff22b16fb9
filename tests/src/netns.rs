//! Network namespaces that clean up after themselves, also after a panic and, for a killed run, at
//! the start of the next. Nothing here has a route out of the machine.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::Once,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};

static NEXT: AtomicU32 = AtomicU32::new(0);
static REAP: Once = Once::new();

/// A named network namespace; deleted when dropped.
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Creates `sovt-<pid>-<n>` with its loopback up.
    pub fn new() -> Result<Self> {
        REAP.call_once(reap_dead);
        let name = format!("sovt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        let ns = Self { name, file };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` commands, one a line, in one process.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip (package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
            stdin.write_all(b"\n")?;
        }
        let out = child.wait_with_output()?;
        ensure!(
            out.status.success(),
            "ip batch: {}\n{batch}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    /// Calls `f` on a thread of its own inside the namespace. A panic in `f` goes on in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let fd = self.file.as_raw_fd();
        let result = thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(fd).expect("setns");
                    f()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that starts inside the namespace. Mounts stay those of the caller: pins and cgroups
    /// are the host's, as they are for a real agent.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.file.as_raw_fd();
        // SAFETY: setns is async-signal-safe and `fd` outlives the spawn (the guard is borrowed).
        unsafe { command.pre_exec(move || enter(fd)) };
        command
    }

    /// Writes a sysctl of this namespace, for example `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(Path::new("/proc/sys").join(key), value))
            .with_context(|| format!("sysctl {key}={value}"))
    }

    /// Waits until the interface has a link-local address that is no longer tentative: until then the
    /// kernel drops IPv6.
    pub fn settle_ipv6(&self, interface: &str) -> Result<()> {
        const TENTATIVE: u8 = 0x40;
        for _ in 0..400 {
            let text = self.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6"))?;
            let ready = text.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.len() == 6
                    && words[5] == interface
                    && words[0].starts_with("fe80")
                    && u8::from_str_radix(words[4], 16).is_ok_and(|flags| flags & TENTATIVE == 0)
            });
            if ready {
                return Ok(());
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
        bail!("IPv6 on {interface} of {} is not ready after 2 s", self.name)
    }

    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: `name` is a NUL-terminated string that lives through the call.
        let index = self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        ensure!(index != 0, "no interface {interface} in {}", self.name);
        Ok(index)
    }

    /// (received, transmitted) packets of an interface as the kernel counts them.
    pub fn packets(&self, interface: &str) -> Result<(u64, u64)> {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        for line in text.lines() {
            let Some((name, numbers)) = line.split_once(':') else { continue };
            if name.trim() == interface {
                let n: Vec<u64> =
                    numbers.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
                ensure!(n.len() > 9, "unexpected /proc/net/dev line: {line}");
                return Ok((n[1], n[9]));
            }
        }
        bail!("no interface {interface} in {}", self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ =
            Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

fn enter(fd: i32) -> std::io::Result<()> {
    // SAFETY: plain system call on an open namespace file.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Removes the namespaces of test runs whose process is gone (killed before its guards ran).
fn reap_dead() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("sovt-").and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs a command to its end; an error carries its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
