//! `agent.toml`: what `run` can be told on the command line, for a service manager. Strict.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The file. Options on the command line win over it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub policy: Option<PathBuf>,
    pub data: Option<PathBuf>,
    pub interfaces: Vec<String>,
    pub xdp: Vec<String>,
    /// `address:port` or `off`.
    pub metrics: Option<String>,
    pub pass_is_final: bool,
    /// Resets and ICMP errors a second, on each CPU, for tags with `response = "reject"`; 0 = none.
    pub reject_rate: Option<u32>,
    /// `auto`, `tcx` or `clsact`.
    pub tc: Option<String>,
}

/// Why a settings file was not used. Says where.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Content { path: PathBuf, line: usize, column: usize, problem: String },
}

impl Settings {
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|e| {
            let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or(text);
            SettingsError::Content {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
                problem: e.message().trim().replace('\n', "; "),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_the_options_say() {
        let text =
            "policy = \"/etc/sov/policy.toml\"\ninterfaces = [\"eth0\"]\nmetrics = \"off\"\n";
        let settings = Settings::parse(Path::new("agent.toml"), text).unwrap();
        assert_eq!(settings.policy, Some("/etc/sov/policy.toml".into()));
        assert_eq!(settings.interfaces, ["eth0"]);
        assert_eq!(settings.metrics.as_deref(), Some("off"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let wrong = |text| Settings::parse(Path::new("a.toml"), text).unwrap_err().to_string();
        let unknown = wrong("policy = \"p\"\npolicies = \"q\"\n");
        assert!(unknown.starts_with("a.toml:2:1: unknown field `policies`"), "{unknown}");
        let kind = wrong("interfaces = \"eth0\"\n");
        assert!(kind.starts_with("a.toml:1:14: invalid type"), "{kind}");
        assert!(wrong("policy = ").starts_with("a.toml:1:"));
    }
}
