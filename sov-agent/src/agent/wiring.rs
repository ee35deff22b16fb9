//! Which programs are attached where: uplinks, workload-facing interfaces, the cgroup hierarchy.

use std::{collections::BTreeSet, fs};

use super::live::Names;
use crate::{
    datapath::{
        Attached, CgroupRoot, Datapath, DatapathError, Direction, Interface, InterfaceWatch,
        default_route_interfaces, interfaces,
    },
    policy::PolicyMeta,
};

/// Links in place, and the watch for interfaces that come and go.
pub(super) struct Wiring {
    /// Uplinks by name; empty = wherever a default route leads.
    named: Vec<String>,
    /// A gateway's inside interfaces, by name.
    xdp: Vec<String>,
    watch: InterfaceWatch,
    attached: Vec<(Direction, Attached)>,
    sockets: Vec<Attached>,
    /// Uplinks that were asked for and do not exist.
    missing: Vec<String>,
}

impl Wiring {
    pub(super) fn new(named: &[String], xdp: &[String]) -> Result<Self, DatapathError> {
        let watch = InterfaceWatch::new()
            .map_err(|source| DatapathError::System { what: "watching links".into(), source })?;
        Ok(Self {
            named: named.to_vec(),
            xdp: xdp.to_vec(),
            watch,
            attached: Vec::new(),
            sockets: Vec::new(),
            missing: Vec::new(),
        })
    }

    pub(super) fn links(&self) -> &[(Direction, Attached)] {
        &self.attached
    }

    pub(super) fn sockets(&self) -> &[Attached] {
        &self.sockets
    }

    pub(super) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Links or routes changed since the last call.
    pub(super) fn changed(&mut self) -> bool {
        self.watch.drain()
    }

    pub(super) fn attach_sockets(
        &mut self,
        datapath: &mut Datapath,
        cgroups: &CgroupRoot,
    ) -> Result<(), DatapathError> {
        self.sockets = datapath.attach_cgroup(cgroups)?;
        Ok(())
    }

    /// Attaches what should be attached and is not. An interface that fails does not keep the others
    /// from being closed; the first error is returned.
    pub(super) fn rescan(
        &mut self,
        datapath: &mut Datapath,
        meta: &PolicyMeta,
        names: &Names,
    ) -> Result<(), DatapathError> {
        let system = |what: &str| {
            let what = what.to_owned();
            move |source| DatapathError::System { what, source }
        };
        let present = interfaces().map_err(system("listing interfaces"))?;
        // A deleted interface took its links with it; their pins are empty shells.
        let pins = datapath.pins().links_dir();
        self.attached.retain(|(direction, link)| {
            // A link follows the interface, not its name.
            let alive = present.iter().any(|i| i.index == link.ifindex);
            if !alive {
                let _ = fs::remove_file(pins.join(direction.pin(link.ifindex)));
            }
            alive
        });
        for (_, link) in &mut self.attached {
            if let Some(found) = present.iter().find(|i| i.index == link.ifindex)
                && found.name != link.target
            {
                log::info!("{} is now called {}; it stays guarded", link.target, found.name);
                link.target.clone_from(&found.name);
            }
        }
        let uplinks: BTreeSet<String> = if self.named.is_empty() {
            default_route_interfaces().map_err(system("reading routes"))?
        } else {
            self.named.iter().cloned().collect()
        };
        self.missing = (uplinks.iter().chain(&self.xdp))
            .filter(|n| !present.iter().any(|i| i.name == **n))
            .cloned()
            .collect();
        let replies = meta.tags.iter().any(|tag| tag.replies);
        let mut first_error = None;
        for interface in &present {
            let uplink = uplinks.contains(&interface.name);
            let workload = names.interfaces.contains(&interface.name);
            for (wanted, direction) in [
                (uplink, Direction::Egress),
                (uplink && replies, Direction::Inbound),
                (workload, Direction::Ingress),
                (self.xdp.contains(&interface.name), Direction::Xdp),
            ] {
                if wanted && !self.has(interface, direction) {
                    match datapath.attach_interface(interface, direction) {
                        Ok(link) => {
                            log::info!(
                                "{} of {} is attached ({})",
                                link.hook,
                                link.target,
                                link.kind
                            );
                            self.attached.push((direction, link));
                        }
                        Err(e) => first_error = first_error.or(Some(e)),
                    }
                }
            }
        }
        let egress = self.attached.iter().filter(|(d, _)| *d == Direction::Egress);
        let watched = datapath.watched(&egress.map(|(_, link)| link.ifindex).collect());
        first_error.map_or(watched, Err)
    }

    fn has(&self, interface: &Interface, direction: Direction) -> bool {
        self.attached.iter().any(|(d, l)| *d == direction && l.ifindex == interface.index)
    }
}
