//! Whether this run may do what the test needs. Owns the rule of when a skip is a failure.

use std::{env, fs};

/// What is missing, in words for the person who reads the test log; `None` = everything is there.
fn missing() -> Option<&'static str> {
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Some("root is needed (network namespaces, bpf); run `cargo xtask test`");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    if effective & NET_ADMIN == 0 || effective & SYS_ADMIN == 0 {
        return Some("CAP_NET_ADMIN and CAP_SYS_ADMIN are needed; this container has dropped them");
    }
    None
}

/// True where privileged tests must run: CI, or an explicit wish.
pub fn required() -> bool {
    let set = |name: &str, value: &str| env::var(name).is_ok_and(|v| v == value);
    set("SOV_REQUIRE_PRIVILEGED", "1") || set("CI", "true")
}

/// True if the caller may go on. Says why it may not; panics where a skip is not acceptable.
pub fn allowed(test: &str) -> bool {
    let Some(reason) = missing() else { return true };
    assert!(!required(), "{test}: {reason} (SOV_REQUIRE_PRIVILEGED=1 or CI=true forbids the skip)");
    eprintln!("SKIPPED {test}: {reason}");
    false
}

/// Leaves the test function with a note when it lacks privileges.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::privilege::allowed(module_path!()) {
            return;
        }
    };
}
