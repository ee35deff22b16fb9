//! Where links and maps are pinned: a folder on a bpffs for each ABI version, and what to do with the folders
//! of other versions. Attaches nothing and loads nothing.

use std::{
    fs, io,
    os::{
        fd::AsFd as _,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use sov_common::abi::ABI_VERSION;

use super::{DatapathError, Direction, attach, sys};

/// Where links and maps are pinned.
#[derive(Clone, Debug)]
pub struct Pins(PathBuf);

impl Pins {
    /// The folder for this ABI below `base`.
    pub fn new(base: &Path) -> Self {
        Self(base.join(format!("v{ABI_VERSION}")))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn links_dir(&self) -> PathBuf {
        self.0.join("links")
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links_dir().join(name)
    }

    /// Where the link of an interface is pinned.
    pub(super) fn of_interface(
        &self,
        direction: Direction,
        ifindex: u32,
    ) -> Result<PathBuf, DatapathError> {
        self.adopt(&direction.pin(ifindex))
    }

    /// Where a link is pinned. One that another version of the agent pinned is moved here first: it gets
    /// the new program in place, with no moment without one. The first version put the interface's name
    /// at the end.
    pub(super) fn adopt(&self, name: &str) -> Result<PathBuf, DatapathError> {
        let path = self.link(name);
        if path.exists() {
            return Ok(path);
        }
        let error = |source| DatapathError::Pin { path: path.clone(), source };
        let old = format!("{name}-");
        for pins in std::iter::once(self.clone()).chain(self.others().map_err(error)?) {
            let links = pins.links().map_err(error)?;
            if let Some(found) = links.iter().find(|n| *n == name || n.starts_with(&old)) {
                fs::rename(pins.link(found), &path).map_err(error)?;
                break;
            }
        }
        Ok(path)
    }

    /// The folders of other ABI versions.
    fn others(&self) -> io::Result<Vec<Self>> {
        let base = self.0.parent().unwrap_or(&self.0);
        let mut found = Vec::new();
        for entry in fs::read_dir(base)?.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix('v')).map(str::parse::<u32>);
            if matches!(number, Some(Ok(_))) && entry.path() != self.0 {
                found.push(Self(entry.path()));
            }
        }
        Ok(found)
    }

    /// Ends what other versions of the agent left in force and nobody adopted. Says how many links of
    /// which folder.
    pub(crate) fn retire_others(&self) -> io::Result<Vec<(PathBuf, usize)>> {
        let mut retired = Vec::new();
        for pins in self.others()? {
            let links = pins.links()?.len();
            // Filters on clsact have no pin: ours took the place of theirs.
            pins.detach_links()?;
            pins.remove_rest()?;
            retired.push((pins.0, links));
        }
        Ok(retired)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join("maps").join(name)
    }

    /// Makes the folders, readable by root only.
    pub(super) fn create(&self) -> Result<(), DatapathError> {
        for path in [self.0.clone(), self.links_dir(), self.0.join("maps")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
                .map_err(|source| DatapathError::Pin { path, source })?;
        }
        Ok(())
    }

    /// Names of the pinned links.
    pub fn links(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<_> = match fs::read_dir(self.links_dir()) {
            Ok(entries) => {
                entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        names.sort();
        Ok(names)
    }

    /// Removes every pin, those of other versions too, and filters on clsact. Links without another
    /// holder are gone with their pin: enforcement ends. Says how many there were; `None` = nothing of
    /// ours is here.
    pub fn remove(&self) -> io::Result<Option<usize>> {
        let mut folders = self.others().or_else(none_is_empty)?;
        if self.0.exists() {
            folders.push(self.clone());
        }
        let mut links = 0;
        for pins in &folders {
            links += pins.links()?.len();
            pins.remove_links()?;
            pins.remove_rest()?;
        }
        Ok(Some(links).filter(|_| !folders.is_empty()))
    }

    /// Detaches every program of this version; the maps stay.
    pub(crate) fn remove_links(&self) -> io::Result<()> {
        attach::detach_clsact(&super::interfaces()?);
        self.detach_links()
    }

    fn detach_links(&self) -> io::Result<()> {
        for name in self.links()? {
            // Now, not when the last holder lets go. A link whose interface is gone cannot be detached.
            if let Ok(link) = sys::open_pin(&self.link(&name)) {
                let _ = sys::detach_link(link.as_fd());
            }
        }
        remove_folder(&self.links_dir())
    }

    /// Links went first: no program may run on maps that are half gone.
    fn remove_rest(&self) -> io::Result<()> {
        remove_folder(&self.0.join("maps"))?;
        remove_folder(&self.0)
    }
}

fn none_is_empty<T: Default>(error: io::Error) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(T::default()) } else { Err(error) }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Pins need a bpffs. The standard place is mounted where a distribution did not do it.
pub(super) fn mount_bpffs(base: &Path) -> Result<(), DatapathError> {
    const STANDARD: &str = "/sys/fs/bpf";
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let is_bpffs = |path: &Path| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == BPF_FS_MAGIC);
    let parent = base.ancestors().find(|path| path.exists()).unwrap_or(base);
    if is_bpffs(parent) {
        return Ok(());
    }
    let error = |source: io::Error| DatapathError::System {
        what: format!("{} is not on a bpffs; `mount -t bpf none {STANDARD}`", base.display()),
        source,
    };
    if !base.starts_with(STANDARD) {
        return Err(error(io::ErrorKind::Unsupported.into()));
    }
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("none", STANDARD, "bpf", flags, Some(c"mode=0700"))
        .map_err(|e| error(e.into()))?;
    log::info!("mounted a bpffs on {STANDARD}");
    Ok(())
}
