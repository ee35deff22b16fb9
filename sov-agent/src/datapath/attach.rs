//! Links: tc on interfaces, socket hooks on the cgroup hierarchy, each pinned, each replaced in place.

use std::{fs, io, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
            qdisc_detach_program,
        },
    },
    util::KernelVersion,
};

use super::{CgroupRoot, DatapathError, Interface, Pins, sys};

/// Which way packets pass an interface when they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Leaving the host: uplinks.
    Egress,
    /// Entering the host from a workload: veth, bridge port, tap.
    Ingress,
    /// Entering the host on an uplink: only watched, for `replies = "allow"`.
    Inbound,
    /// Entering a gateway from inside, before there is an skb.
    Xdp,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "tc_egress",
            Self::Ingress => "tc_ingress",
            Self::Inbound => "tc_inbound",
            Self::Xdp => "xdp",
        }
    }

    /// The direction and interface index of a pin's name; `None` for links of other kinds.
    pub(super) fn of_pin(name: &str) -> Option<(Self, u32)> {
        let (hook, index) = name.rsplit_once('-')?;
        let all = [Self::Egress, Self::Ingress, Self::Inbound, Self::Xdp];
        let direction = all.into_iter().find(|direction| direction.as_str() == hook)?;
        Some((direction, index.parse().ok()?))
    }

    /// Name of the pin. A link follows the interface's number: names change.
    pub(crate) fn pin(self, ifindex: u32) -> String {
        format!("{}-{ifindex}", self.as_str())
    }

    pub(super) fn program(self, ethernet: bool) -> &'static str {
        match (self, ethernet) {
            (Self::Egress, true) => "sov_egress",
            (Self::Egress, false) => "sov_egress_l3",
            (Self::Ingress, true) => "sov_ingress",
            (Self::Ingress, false) => "sov_ingress_l3",
            (Self::Inbound, true) => "sov_inbound",
            (Self::Inbound, false) => "sov_inbound_l3",
            (Self::Xdp, _) => "sov_xdp",
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Egress => TcAttachType::Egress,
            // XDP is attached by `super::xdp`; the word is never asked for.
            Self::Ingress | Self::Inbound | Self::Xdp => TcAttachType::Ingress,
        }
    }
}

/// A link that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `tc_egress`, `connect4`, …
    pub hook: &'static str,
    /// `tcx`, `clsact`, `cgroup`, and for XDP its mode: `native`, `generic`, `offload`.
    pub kind: &'static str,
    /// Interface or cgroup.
    pub target: String,
    /// Interface index, 0 for cgroups.
    pub ifindex: u32,
    /// The link was there and got the new program: no packet passed unjudged in between.
    pub taken_over: bool,
}

/// Attaches (or takes over) one direction of one interface.
pub(super) fn attach_interface(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: &Interface,
    direction: Direction,
    tc: Tc,
) -> Result<Attached, DatapathError> {
    let hook = direction.as_str();
    let name = direction.program(interface.ethernet);
    let fail =
        |problem: String| DatapathError::Attach { hook, target: interface.name.clone(), problem };
    let pin = pins.of_interface(direction, interface.index)?;
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or(DatapathError::Program { program: name, problem: "not in the object".into() })?;
    let done = |taken_over| Attached {
        hook,
        kind: tc.as_str(),
        target: interface.name.clone(),
        ifindex: interface.index,
        taken_over,
    };
    if tc == Tc::Clsact {
        return attach_clsact(program, interface, direction)
            .map(done)
            .map_err(|e| fail(chain(&*e)));
    }
    let fd = program.fd().map_err(|e| fail(e.to_string()))?.as_fd();
    if take_over(&pin, fd).map_err(|source| DatapathError::Pin { path: pin.clone(), source })? {
        return Ok(done(true));
    }
    // First in line: a program of someone else that lets packets out must not stand before ours.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&interface.name, direction.attach_type(), options)
        .map_err(|e| fail(chain(&e)))?;
    let link = program.take_link(id).map_err(|e| fail(chain(&e)))?;
    let link: FdLink = link.try_into().map_err(|_| fail("not a tcx link".into()))?;
    link.pin(&pin).map_err(|e| fail(chain(&e)))?;
    Ok(done(false))
}

/// The filter on clsact: replaced in place where it is there, else made. It has no descriptor and needs
/// no pin: it stays until someone removes it. `true` = replaced.
fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: Direction,
) -> Result<bool, Box<dyn std::error::Error>> {
    const PRIORITY: u16 = 1;
    let handle = TcHandle::new(0, 0x50f);
    let attach_type = direction.attach_type();
    // Usually there already; if it cannot be made, attaching says why.
    let _ = qdisc_add_clsact(&interface.name);
    let known =
        SchedClassifierLink::attached(&interface.name, attach_type, PRIORITY, handle, None)?;
    let (id, replaced) = match program.attach_to_link(known) {
        Ok(id) => (id, true),
        Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle, ..NlOptions::default() };
            let options = TcAttachOptions::Netlink(options);
            (program.attach_with_options(&interface.name, attach_type, options)?, false)
        }
    };
    // Dropping the link would detach the program.
    std::mem::forget(program.take_link(id)?);
    Ok(replaced)
}

/// Removes our filters from clsact; says of how many interfaces.
pub(super) fn detach_clsact(interfaces: &[Interface]) -> usize {
    let mut removed = 0;
    for interface in interfaces {
        for direction in [Direction::Egress, Direction::Ingress, Direction::Inbound] {
            let name = direction.program(interface.ethernet);
            let kind = direction.attach_type();
            removed += usize::from(qdisc_detach_program(&interface.name, kind, name).is_ok());
        }
    }
    removed
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tc {
    /// tcx links (kernel 6.6).
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

impl Tc {
    /// What this kernel has.
    pub fn detect() -> Self {
        let tcx =
            KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0));
        if tcx { Self::Tcx } else { Self::Clsact }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Socket hooks, with their names in the object.
pub(super) const SOCKET_HOOKS: [(&str, &str); 4] = [
    ("connect4", "sov_connect4"),
    ("connect6", "sov_connect6"),
    ("sendmsg4", "sov_sendmsg4"),
    ("sendmsg6", "sov_sendmsg6"),
];

/// Attaches (or takes over) the socket hooks on `root`.
pub(super) fn attach_cgroup(
    ebpf: &mut Ebpf,
    pins: &Pins,
    root: &CgroupRoot,
) -> Result<Vec<Attached>, DatapathError> {
    let target = root.path().display().to_string();
    let folder = fs::File::open(root.path())
        .map_err(|source| DatapathError::System { what: target.clone(), source })?;
    let mut attached = Vec::new();
    for (hook, name) in SOCKET_HOOKS {
        let fail =
            |problem: String| DatapathError::Attach { hook, target: target.clone(), problem };
        let pin = pins.adopt(hook)?;
        let program: &mut CgroupSockAddr =
            ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(
                DatapathError::Program { program: name, problem: "not in the object".into() },
            )?;
        let fd = program.fd().map_err(|e| fail(e.to_string()))?.as_fd();
        let taken_over = take_over(&pin, fd)
            .map_err(|source| DatapathError::Pin { path: pin.clone(), source })?;
        if !taken_over {
            // Links always share the hook with others; this mode works on every kernel tried.
            let id =
                program.attach(&folder, CgroupAttachMode::Single).map_err(|e| fail(chain(&e)))?;
            let link = program.take_link(id).map_err(|e| fail(chain(&e)))?;
            let link: FdLink = link.try_into().map_err(|_| fail("not a link".into()))?;
            link.pin(&pin).map_err(|e| fail(chain(&e)))?;
        }
        let kind = "cgroup";
        attached.push(Attached { hook, kind, target: target.clone(), ifindex: 0, taken_over });
    }
    Ok(attached)
}

/// Puts `program` into the link pinned at `pin`. `false` when there is none, or its interface is gone.
pub(super) fn take_over(pin: &Path, program: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    let link = match sys::open_pin(pin) {
        Ok(link) => link,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match sys::update_link(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // The interface was deleted (and perhaps made again): the link is a shell.
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(pin)?;
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
