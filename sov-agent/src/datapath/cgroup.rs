//! The cgroup v2 hierarchy: where it is, and what number a path has.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::DatapathError;

/// A cgroup that a selector names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// cgroup v2 id (the inode of its folder).
    pub id: u64,
    /// Depth below the root of the hierarchy (root = 0).
    pub depth: u8,
}

/// The folder that selector paths start from, and where the socket hooks are attached.
#[derive(Clone, Debug)]
pub struct CgroupRoot {
    path: PathBuf,
    depth: u8,
}

impl CgroupRoot {
    /// The cgroup v2 mount (/sys/fs/cgroup, or /sys/fs/cgroup/unified on hybrid hosts), or `below`
    /// a folder of it.
    pub fn discover(below: Option<&Path>) -> Result<Self, DatapathError> {
        let mount = mount_point().map_err(|source| DatapathError::System {
            what: "cgroup v2 hierarchy (mount one with `mount -t cgroup2 none /sys/fs/cgroup`)"
                .into(),
            source,
        })?;
        let Some(path) = below else { return Ok(Self { path: mount, depth: 0 }) };
        let inside = path.strip_prefix(&mount).map_err(|_| DatapathError::System {
            what: format!("cgroup root {} is not below {}", path.display(), mount.display()),
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        let depth = inside.components().count().min(usize::from(u8::MAX)) as u8;
        Ok(Self { path: path.to_path_buf(), depth })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds `/a/b`, creating it where it is missing: a workload that is started there later is
    /// tagged from its first packet, because its cgroup is known before it exists.
    pub fn ensure(&self, path: &str) -> Result<Cgroup, DatapathError> {
        let full = self.full(path);
        fs::create_dir_all(&full).and_then(|()| self.read(path)).map_err(|source| {
            DatapathError::System { what: format!("cgroup {}", full.display()), source }
        })
    }

    /// Finds `/a/b`.
    pub fn read(&self, path: &str) -> io::Result<Cgroup> {
        let meta = fs::metadata(self.full(path))?;
        let below = path.split('/').filter(|part| !part.is_empty()).count();
        let depth = usize::from(self.depth) + below;
        Ok(Cgroup { id: meta.ino(), depth: depth.min(usize::from(u8::MAX)) as u8 })
    }

    fn full(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// The path of a cgroup id, from the root of the hierarchy. Walks the tree: for records only.
    pub fn path_of(&self, id: u64) -> Option<String> {
        let mount = mount_point().ok()?;
        let mut folders = vec![mount.clone()];
        while let Some(folder) = folders.pop() {
            if fs::metadata(&folder).is_ok_and(|m| m.ino() == id) {
                let inside = folder.strip_prefix(&mount).ok()?;
                return Some(format!("/{}", inside.display()));
            }
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        None
    }
}

fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            // 36 35 98:0 /root /mount options - type source options
            let (before, after) = line.split_once(" - ")?;
            if after.split(' ').next()? != "cgroup2" {
                return None;
            }
            before.split(' ').nth(4).map(PathBuf::from)
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 mount"))
}
