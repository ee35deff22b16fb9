//! Text rules: module boundaries, file headers and lengths, leftovers, the changelog.

use super::{Finding, Level, source};

/// A module that must not name something, and why.
struct Boundary {
    /// Path prefixes that the rule holds for; a module is `x.rs` and `x/`.
    inside: &'static [&'static str],
    /// Path prefixes within, that the rule does not hold for.
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        inside: &["sov-agent/src/"],
        except: &["sov-agent/src/datapath.rs", "sov-agent/src/datapath/"],
        words: &["aya::", "aya_obj", "aya_log", "use aya"],
        why: "only datapath/ names aya",
    },
    Boundary {
        inside: PURE,
        except: &[],
        words: &["tokio", "SystemTime", "Instant", "UNIX_EPOCH"],
        why: "policy/ and data/ are pure: no runtime, and the time is an argument",
    },
    Boundary {
        inside: PURE,
        except: &[],
        words: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "UnixDatagram",
            "ToSocketAddrs",
        ],
        why: "policy/ and data/ are pure: no sockets",
    },
    Boundary {
        inside: &["sov-common/src/"],
        except: &[],
        words: &["std::", "alloc::"],
        why: "sov-common runs in the kernel: core alone",
    },
];

const PURE: &[&str] = &[
    "sov-agent/src/policy.rs",
    "sov-agent/src/policy/",
    "sov-agent/src/data.rs",
    "sov-agent/src/data/",
];

/// A file longer than this has more than one subject.
const LONG: usize = 400;
const TOO_LONG: usize = 600;

const LEFTOVERS: &[&str] = &["dbg!", "todo!", "unimplemented!"];

pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    outside_paths(path, text, &mut findings);
    if path.ends_with(".rs") {
        header(path, text, &mut findings);
        length(path, text, &mut findings);
        code(path, text, &mut findings);
    }
    if path == "CHANGELOG.md" && !text.lines().any(|line| line.starts_with("## [Unreleased]")) {
        push(&mut findings, path, 1, "has no section `## [Unreleased]`".into());
    }
    findings
}

fn header(path: &str, text: &str, findings: &mut Vec<Finding>) {
    if !text.starts_with("//!") {
        push(
            findings,
            path,
            1,
            "must open with `//!`: what the file owns and refuses to do".into(),
        );
    }
}

fn length(path: &str, text: &str, findings: &mut Vec<Finding>) {
    // What a program writes is as long as it is.
    if text.lines().take(3).any(|line| line.contains("@generated")) {
        return;
    }
    let lines = text.lines().count();
    if lines > TOO_LONG {
        push(findings, path, lines, format!("{lines} lines; split it before {TOO_LONG}"));
    } else if lines > LONG {
        let message = format!("{lines} lines; consider a split, {TOO_LONG} is the limit");
        findings.push(Finding { path: path.into(), line: lines, level: Level::Warning, message });
    }
}

fn code(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    // The rules name what they forbid.
    let own = path == "xtask/src/tidy/rules.rs" || path == "xtask/src/tidy/source.rs";
    let boundaries: Vec<_> =
        BOUNDARIES.iter().filter(|rule| starts(rule.inside) && !starts(rule.except)).collect();
    for line in source::lines(path, text) {
        for leftover in LEFTOVERS.iter().filter(|word| !own && source::names(line.code, word)) {
            push(findings, path, line.number, format!("`{leftover}` left behind"));
        }
        if line.in_tests {
            continue;
        }
        for rule in &boundaries {
            if let Some(word) = rule.words.iter().find(|word| source::names(line.code, word)) {
                push(findings, path, line.number, format!("names `{word}`; {}", rule.why));
            }
        }
    }
}

/// Nothing may depend on where its author's files lay. In comments neither.
fn outside_paths(path: &str, text: &str, findings: &mut Vec<Finding>) {
    // Put together here, or this file would break its own rule.
    let folders = [concat!("..", "/shared"), concat!("/wo", "rk"), concat!("/tmp", "/wt")];
    for (index, line) in text.lines().enumerate() {
        for folder in folders.iter().filter(|folder| names_folder(line, folder)) {
            push(findings, path, index + 1, format!("names `{folder}`, outside of the project"));
        }
    }
}

/// Whether a line names a folder itself, not `x/folder` or `folderish`.
fn names_folder(line: &str, folder: &str) -> bool {
    let part_of_path = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + folder.len()..].chars().next();
        !before.is_some_and(|c| part_of_path(c) || "*}>)".contains(c))
            && !after.is_some_and(|c| c.is_alphanumeric() || "_-".contains(c))
    })
}

fn push(findings: &mut Vec<Finding>, path: &str, line: usize, message: String) {
    findings.push(Finding { path: path.into(), line, level: Level::Error, message });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings as `line: message`, for a Rust file with its header in line 1.
    fn found(path: &str, body: &str) -> Vec<String> {
        let text = format!("//! Header.\n{body}\n");
        check(path, &text).iter().map(|f| format!("{}: {}", f.line, f.message)).collect()
    }

    #[test]
    fn aya_is_named_in_datapath_only() {
        let code = "use aya::Ebpf;";
        let expected = ["2: names `aya::`; only datapath/ names aya"];
        assert_eq!(found("sov-agent/src/metrics.rs", code), expected);
        assert_eq!(found("sov-agent/src/cli/run.rs", "let m: aya_obj::Map;").len(), 1);
        assert_eq!(found("sov-agent/src/cli.rs", "use aya;").len(), 1);
        assert!(found("sov-agent/src/datapath/attach.rs", code).is_empty());
        assert!(found("sov-agent/src/datapath.rs", code).is_empty());
        assert!(found("sov-common/src/abi.rs", code).is_empty());
        assert!(found("sov-agent/src/cli.rs", "/// See [`aya::Ebpf`].").is_empty());
    }

    #[test]
    fn policy_and_data_are_pure_outside_their_tests() {
        for code in [
            "use std::time::SystemTime;",
            "Instant::now();",
            "tokio::spawn(x);",
            "UdpSocket::bind(a);",
        ] {
            assert_eq!(found("sov-agent/src/policy/compile.rs", code).len(), 1, "{code}");
            assert_eq!(found("sov-agent/src/data.rs", code).len(), 1, "{code}");
            assert!(found("sov-agent/src/control.rs", code).is_empty(), "{code}");
            let in_tests = format!("#[cfg(test)]\nmod tests {{\n    {code}\n}}");
            assert!(found("sov-agent/src/policy.rs", &in_tests).is_empty(), "{code}");
        }
        assert!(found("sov-agent/src/data/model.rs", "use std::net::Ipv4Addr;").is_empty());
        assert!(found("sov-agent/src/database.rs", "use std::time::SystemTime;").is_empty());
    }

    #[test]
    fn common_is_core_alone() {
        assert_eq!(found("sov-common/src/lib.rs", "use std::fmt;").len(), 1);
        assert!(found("sov-common/src/lib.rs", "use core::fmt;").is_empty());
        assert!(
            found("sov-common/src/lib.rs", "#[cfg(test)]\nmod t {\nuse std::fmt;\n}").is_empty()
        );
    }

    #[test]
    fn leftovers_count_in_tests_too_but_not_in_comments() {
        assert_eq!(found("a.rs", "dbg!(x);"), ["2: `dbg!` left behind"]);
        assert_eq!(found("a.rs", "#[cfg(test)]\nmod t {\ntodo!()\n}").len(), 1);
        assert_eq!(found("a.rs", "unimplemented!()").len(), 1);
        assert!(found("a.rs", "// no dbg! here").is_empty());
    }

    #[test]
    fn header_and_length() {
        assert_eq!(
            check("a.rs", "use a;\n")[0].message.split(':').next(),
            Some("must open with `//!`")
        );
        let lines = |n: usize| format!("//! H\n{}", "x\n".repeat(n - 1));
        assert!(check("a.rs", &lines(400)).is_empty());
        assert_eq!(check("a.rs", &lines(401))[0].level, Level::Warning);
        assert_eq!(check("a.rs", &lines(600))[0].level, Level::Warning);
        assert_eq!(check("a.rs", &lines(601))[0].level, Level::Error);
        assert!(check("a.rs", &format!("//! @generated\n{}", "x\n".repeat(900))).is_empty());
        assert!(check("a.md", &"x\n".repeat(900)).is_empty());
    }

    #[test]
    fn folders_outside_of_the_project() {
        let wo_rk = concat!("/wo", "rk");
        for text in [
            concat!("see ..", "/shared/design.md").to_owned(),
            format!("cp {wo_rk}/x ."),
            format!("\"{wo_rk}\""),
            concat!("/tmp", "/wt/x").to_owned(),
        ] {
            assert_eq!(check("docs/a.md", &text).len(), 1, "{text}");
        }
        for text in [format!("{wo_rk}space"), format!("src{wo_rk}/x"), "a/../b/shared".to_owned()] {
            assert!(check("docs/a.md", &text).is_empty(), "{text}");
        }
    }

    #[test]
    fn changelog_has_an_unreleased_section() {
        assert!(check("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n").is_empty());
        assert_eq!(check("CHANGELOG.md", "# Changelog\n\n## [0.1.0]\n").len(), 1);
    }
}
