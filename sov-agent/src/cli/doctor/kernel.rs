//! What the kernel's version says.

use rustix::process::{Resource, getrlimit};

use super::Finding;

/// Ring buffer 5.8, boot clock in programs 5.8, memcg accounting instead of memlock 5.11.
const NEEDED: Version = Version(5, 15);
/// tcx links: <https://git.kernel.org/torvalds/c/e420bed02507>.
const TCX: Version = Version(6, 6);
/// BPF memory is charged to the cgroup, not to RLIMIT_MEMLOCK.
const MEMCG: Version = Version(5, 11);

/// Major and minor number of a kernel release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl Version {
    pub(super) fn parse(release: &str) -> Option<Self> {
        let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
        Some(Self(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

pub(super) fn release(kernel: Option<Version>) -> Finding {
    let Version(major, minor) = NEEDED;
    let fix = format!("boot Linux {major}.{minor} or later");
    match kernel {
        Some(v) if v >= NEEDED => Finding::ok("kernel", format!("Linux {}.{}", v.0, v.1)),
        Some(v) => Finding::missing("kernel", format!("Linux {}.{} is too old", v.0, v.1), fix),
        None => Finding::missing("kernel", "/proc/sys/kernel/osrelease names no version", fix),
    }
}

pub(super) fn tcx(kernel: Option<Version>) -> Finding {
    match kernel {
        Some(v) if v >= TCX => Finding::ok("tcx", "the kernel has tcx links"),
        _ => Finding::warning(
            "tcx",
            "no tcx links: clsact is used instead, and other programs may be ordered first",
            "boot Linux 6.6 or later where the order of programs matters",
        ),
    }
}

pub(super) fn memlock(kernel: Option<Version>) -> Finding {
    if kernel.is_some_and(|v| v >= MEMCG) {
        return Finding::ok("memlock", "not limiting: BPF memory is charged to the cgroup");
    }
    match getrlimit(Resource::Memlock).current {
        None => Finding::ok("memlock", "unlimited"),
        Some(bytes) => Finding::missing(
            "memlock",
            format!("RLIMIT_MEMLOCK is {bytes} bytes"),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse() {
        assert_eq!(Version::parse("6.18.44-fc-v595\n"), Some(Version(6, 18)));
        assert_eq!(Version::parse("5.4-rc1"), Some(Version(5, 4)));
        assert_eq!(Version::parse("linux"), None);
        assert_eq!(Version::parse("99999999999.1"), None);
    }
}
