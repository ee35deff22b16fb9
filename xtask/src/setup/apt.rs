//! The distribution's packages, through apt-get. The only part of set-up that becomes root.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::exec::{self, Elevation};

pub(crate) fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${db:Status-Status}", package]).stderr(Stdio::null());
    exec::capture(&mut query).is_ok_and(|status| status == "installed")
}

/// Installs packages; where that fails or a name is unknown, once more with fresh lists.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if exec::find_program("apt-get").is_none() {
        bail!("needs {names} (Debian's names), and there is no apt-get: install them by hand");
    }
    if exec::elevation() == Elevation::Impossible {
        bail!("needs root to install {names}: run `apt-get install {names}` as root");
    }
    let known = packages.iter().all(|package| candidate(package).is_some());
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(packages);
    if known && exec::succeeds(&mut apt_get(&install))? {
        return Ok(());
    }
    update()?;
    exec::run(&mut apt_get(&install))
}

/// The version that apt would install. `None`: no such package in the lists.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", package]).env("LC_ALL", "C");
    candidate_in(&exec::capture(&mut policy).ok()?)
}

/// Fetches the package lists.
pub(crate) fn update() -> Result<()> {
    if exec::elevation() == Elevation::Impossible {
        bail!("needs root to refresh the package lists: run `apt-get update` as root");
    }
    exec::step("refreshing the package lists", "they are missing or older than the packages");
    // A third-party source that does not answer is no reason to stop: installing decides.
    exec::succeeds(&mut apt_get(&["update"])).map(|_| ())
}

fn apt_get(args: &[&str]) -> Command {
    let quiet = [("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    let mut command = exec::as_root("apt-get".as_ref(), &quiet);
    // Another apt may be at work, for example the nightly upgrade.
    command.args(["--quiet=2", "-o", "DPkg::Lock::Timeout=120"]).args(args);
    command
}

fn candidate_in(policy: &str) -> Option<String> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(line.trim()).filter(|version| *version != "(none)").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::candidate_in;

    #[test]
    fn candidate_version_is_read_and_none_is_none() {
        let known = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(candidate_in(known).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate_in("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }
}
