//! Rules about dependencies, from `cargo metadata`: licences, and what xtask and sov-common may use.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Finding, Level};
use crate::{setup, toolchain::Compiler, workspace};

/// Licences that ask for no more than their notice. MPL-2.0 would need an argument: none is needed yet.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Exceptions to a licence that only widen it.
const WIDENING: &[&str] = &["LLVM-exception"];

pub(crate) fn check() -> Result<Vec<Finding>> {
    let compiler = Compiler::inspect(&setup::running_compiler())
        .context("the running compiler does not answer")?;
    Ok(findings(&workspace::dependencies(&compiler.host)?))
}

fn findings(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut findings = Vec::new();
    let mut push = |path: &str, message: String| {
        findings.push(Finding { path: path.into(), line: 0, level: Level::Error, message });
    };
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        if !package["source"].is_null() {
            let version = package["version"].as_str().unwrap_or("?");
            match package["license"].as_str() {
                Some(licence) if permitted(licence) => {}
                Some(licence) => push(
                    "Cargo.lock",
                    format!(
                        "{name} {version} has licence `{licence}`, which the list does not allow"
                    ),
                ),
                None => push("Cargo.lock", format!("{name} {version} names no licence")),
            }
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let wanted = dependency["name"].as_str().unwrap_or("?");
            let ours = !dependency["path"].is_null();
            let optional = dependency["optional"] == true;
            match name {
                "xtask" if ours => {
                    push(
                        "xtask/Cargo.toml",
                        format!("depends on {wanted}; xtask builds before all"),
                    );
                }
                "sov-common" if dependency["kind"].is_null() && !optional => push(
                    "sov-common/Cargo.toml",
                    format!(
                        "depends on {wanted}; only optional ones are allowed, it runs in the kernel"
                    ),
                ),
                _ => {}
            }
        }
    }
    findings
}

/// Whether an SPDX expression leaves a choice that the list allows. `/` is an old spelling of OR.
fn permitted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    // What cannot be read is not allowed.
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(rest: &mut &[&str]) -> Option<bool> {
    let mut permitted = all_of(rest)?;
    while rest.first() == Some(&"OR") {
        *rest = &rest[1..];
        // Both sides are always read, or the rest of the expression would be misread.
        let other = all_of(rest)?;
        permitted |= other;
    }
    Some(permitted)
}

fn all_of(rest: &mut &[&str]) -> Option<bool> {
    let mut permitted = one(rest)?;
    while rest.first() == Some(&"AND") {
        *rest = &rest[1..];
        let other = one(rest)?;
        permitted &= other;
    }
    Some(permitted)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    let (&first, tail) = rest.split_first()?;
    *rest = tail;
    if first == "(" {
        let permitted = any_of(rest)?;
        let (&close, tail) = rest.split_first()?;
        *rest = tail;
        return (close == ")").then_some(permitted);
    }
    let mut permitted = ALLOWED.contains(&first);
    if let ["WITH", exception, tail @ ..] = *rest {
        permitted &= WIDENING.contains(exception);
        *rest = tail;
    }
    Some(permitted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        ] {
            assert!(permitted(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "MPL-2.0",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "GPL-2.0-only WITH Classpath-exception-2.0",
            "(MIT OR GPL-3.0-only) AND GPL-3.0-only",
        ] {
            assert!(!permitted(bad), "{bad}");
        }
    }

    #[test]
    fn findings_name_the_crate_and_what_is_wrong() {
        let registry = "registry+x";
        let metadata = json!({ "packages": [
            { "name": "good", "version": "1.0.0", "source": registry, "license": "MIT" },
            { "name": "bad", "version": "2.0.0", "source": registry, "license": "GPL-3.0-only" },
            { "name": "none", "version": "3.0.0", "source": registry, "license": null },
            { "name": "xtask", "source": null, "dependencies": [
                { "name": "sov-common", "path": "/x", "kind": null, "optional": false },
                { "name": "clap", "kind": null, "optional": false },
            ]},
            { "name": "sov-common", "source": null, "dependencies": [
                { "name": "serde", "kind": null, "optional": false },
                { "name": "aya", "kind": null, "optional": true },
                { "name": "proptest", "kind": "dev", "optional": false },
            ]},
        ]});
        let text: Vec<_> = findings(&metadata).iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 4, "{text:#?}");
        assert!(text[0].starts_with("Cargo.lock:1: bad 2.0.0 has licence `GPL-3.0-only`"));
        assert!(text[1].starts_with("Cargo.lock:1: none 3.0.0 names no licence"));
        assert!(text[2].starts_with("xtask/Cargo.toml:1: depends on sov-common"));
        assert!(text[3].starts_with("sov-common/Cargo.toml:1: depends on serde"));
    }
}
