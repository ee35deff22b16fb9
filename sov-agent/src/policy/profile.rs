//! The policies that the binary carries.

/// Used where no policy is given.
pub const DEFAULT: &str = "two-tier-govcloud";

/// Names and texts.
pub const PROFILES: [(&str, &str); 2] = [
    ("two-tier-govcloud", include_str!("../../profiles/two-tier-govcloud.toml")),
    ("monitor-only", include_str!("../../profiles/monitor-only.toml")),
];

/// The text of an embedded profile.
pub fn profile(name: &str) -> Option<&'static str> {
    PROFILES.iter().find(|profile| profile.0 == name).map(|profile| profile.1)
}
