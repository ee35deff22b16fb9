//! What cargo knows about the workspace: its root, its target folder, its packages and test targets.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::exec;

/// The workspace root. xtask lies one folder below it.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// `cargo metadata` without dependencies: needs no network and no lock file.
pub(crate) fn members() -> Result<Value> {
    metadata(&["--no-deps"])
}

/// `cargo metadata` with the dependencies of this kind of machine.
pub(crate) fn dependencies(host: &str) -> Result<Value> {
    metadata(&["--locked", "--filter-platform", host])
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder(metadata: &Value) -> Result<PathBuf> {
    let target = metadata["target_directory"].as_str();
    target.map(PathBuf::from).context("cargo metadata names no target folder")
}

/// Where cargo puts a program of the dev profile.
pub(crate) fn built(metadata: &Value, program: &str) -> Result<PathBuf> {
    Ok(target_folder(metadata)?.join("debug").join(program))
}

/// Names of the integration test targets of a package, in the order of its manifest.
pub(crate) fn test_targets(metadata: &Value, package: &str) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages
        .iter()
        .filter(|candidate| candidate["name"] == package)
        .flat_map(|found| found["targets"].as_array().map(Vec::as_slice).unwrap_or_default())
        .filter(|target| target["kind"].as_array().is_some_and(|k| k.iter().any(|k| k == "test")))
        .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
        .collect()
}

fn metadata(args: &[&str]) -> Result<Value> {
    let mut command = exec::cargo();
    command.current_dir(root()).args(["metadata", "--format-version", "1"]).args(args);
    serde_json::from_str(&exec::capture(&mut command)?).context("cargo metadata is not JSON")
}
