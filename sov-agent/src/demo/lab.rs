//! Network namespaces without names: they end with the processes and descriptors that hold them.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, bail, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::plan::PLACES;

pub const WORKLOAD_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const WORKLOAD_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
/// The workload's uplink.
pub const UPLINK: &str = "up0";
/// Link-layer address of the router on that link.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];

/// The workload's address of the family of `destination`.
pub fn workload(destination: IpAddr) -> IpAddr {
    match destination {
        IpAddr::V4(_) => WORKLOAD_V4.into(),
        IpAddr::V6(_) => WORKLOAD_V6.into(),
    }
}

/// A network namespace, held by a descriptor alone.
pub struct Netns(File);

impl Netns {
    fn new() -> anyhow::Result<Self> {
        let made = thread::spawn(|| {
            // SAFETY: a network namespace of its own for this thread alone; no descriptor is shared away.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        })
        .join();
        match made {
            Ok(Ok(file)) => Ok(Self(file)),
            Ok(Err(e)) => Err(e).context(
                "a network namespace cannot be made; the demonstration needs CAP_SYS_ADMIN and a \
                 kernel with CONFIG_NET_NS",
            ),
            Err(_) => bail!("the thread that makes network namespaces panicked"),
        }
    }

    /// Calls `f` on a thread inside the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let joined = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.0)?;
                f()
            });
            inside.join()
        });
        joined.unwrap_or_else(|_| bail!("a thread in a network namespace panicked"))
    }

    /// A command that runs inside, and not longer than the caller's thread.
    pub fn command(&self, program: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        let file = self.0.try_clone()?;
        // SAFETY: two plain system calls; the descriptor lives in the closure.
        unsafe {
            command.pre_exec(move || {
                enter(&file)?;
                die_with_parent()
            })
        };
        Ok(command)
    }

    /// Runs `ip` commands, one a line.
    fn ip(&self, batch: &str) -> anyhow::Result<()> {
        let mut child = self
            .command(Path::new("ip"))?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("`ip` cannot be started; install the package iproute2")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
        }
        let out = child.wait_with_output()?;
        let problem = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "`ip` failed: {}", problem.trim());
        Ok(())
    }

    /// A path that `ip` opens from another process.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn enter(netns: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// SIGKILL for this process when its parent thread is gone, also if it is gone already.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Workload, router and the places, wired up.
pub struct Lab {
    pub workload: Netns,
    _router: Netns,
    pub places: Vec<Netns>,
    /// Whether this kernel has IPv6.
    pub ipv6: bool,
}

impl Lab {
    pub fn new() -> anyhow::Result<Self> {
        let ipv6 = has_ipv6();
        let (workload, router) = (Netns::new()?, Netns::new()?);
        let places = PLACES.iter().map(|_| Netns::new()).collect::<anyhow::Result<Vec<_>>>()?;
        for netns in places.iter().chain([&workload, &router]) {
            netns.run(|| settings(ipv6))?;
        }
        let v6 = |line: String| if ipv6 { line } else { String::new() };
        workload.ip(&format!(
            "link set lo up\n\
             link add {UPLINK} address 02:00:00:00:09:01 type veth peer name in0 address 02:00:00:00:09:02 netns {}\n\
             addr add {WORKLOAD_V4}/24 dev {UPLINK}\n{}link set {UPLINK} up\n",
            router.path(),
            v6(format!("addr add {WORKLOAD_V6}/64 dev {UPLINK} nodad\n")),
        ))?;
        let mut batch = String::from("link set lo up\naddr add 10.9.0.2/24 dev in0\n");
        batch += &v6("addr add fd09::2/64 dev in0 nodad\n".into());
        batch += "link set in0 up\n";
        for (i, (place, netns)) in PLACES.iter().zip(&places).enumerate() {
            let n = i + 1;
            batch += &format!(
                "link add d{n} type veth peer name e0 netns {}\naddr add 10.9.{n}.1/24 dev d{n}\n",
                netns.path()
            );
            batch += &v6(format!("addr add fd09:0:0:{n}::1/64 dev d{n} nodad\n"));
            batch += &format!("link set d{n} up\n");
            netns.ip(&format!(
                "link set lo up\naddr add {}/32 dev lo\n{}",
                place.v4,
                v6(format!("addr add {}/128 dev lo nodad\n", place.v6))
            ))?;
        }
        router.ip(&batch)?;
        for (i, netns) in places.iter().enumerate() {
            let n = i + 1;
            netns.ip(&format!(
                "addr add 10.9.{n}.2/24 dev e0\n{}link set e0 up\nroute add default via 10.9.{n}.1\n{}",
                v6(format!("addr add fd09:0:0:{n}::2/64 dev e0 nodad\n")),
                v6(format!("route add default via fd09:0:0:{n}::1\n")),
            ))?;
        }
        // The links are up on both sides now: routes over them can be made.
        let mut batch = String::new();
        for (i, place) in PLACES.iter().enumerate() {
            let n = i + 1;
            batch += &format!("route add {}/32 via 10.9.{n}.2\n", place.v4);
            batch += &v6(format!("route add {}/128 via fd09:0:0:{n}::2\n", place.v6));
        }
        router.ip(&batch)?;
        workload.ip(&format!(
            "route add default via 10.9.0.2\n{}",
            v6("route add default via fd09::2\n".into())
        ))?;
        Ok(Self { workload, _router: router, places, ipv6 })
    }
}

/// Built without IPv6, or booted with `ipv6.disable=1`: there are no such sockets.
fn has_ipv6() -> bool {
    use rustix::net::{AddressFamily, SocketType, socket};
    Path::new("/proc/sys/net/ipv6").exists()
        && socket(AddressFamily::INET6, SocketType::DGRAM, None).is_ok()
}

/// Of the namespace that the calling thread is in.
fn settings(ipv6: bool) -> anyhow::Result<()> {
    let set = |key: &str, value: &str| {
        fs::write(Path::new("/proc/sys/net").join(key), value)
            .with_context(|| format!("sysctl net/{key}={value}"))
    };
    set("ipv4/ip_forward", "1")?;
    if ipv6 {
        // No waiting for duplicate addresses: nobody else is there.
        set("ipv6/conf/default/accept_dad", "0")?;
        set("ipv6/conf/all/disable_ipv6", "0")?;
        set("ipv6/conf/default/disable_ipv6", "0")?;
        set("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}
