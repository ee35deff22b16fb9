//! Diagnostics as people see them (a folder per case), and hostile input.
//!
//! `SOV_UPDATE_CASES=1 cargo test -p sov-agent policy::parse` writes the expected texts anew.

use super::*;
use crate::{
    data::dataset::Dataset,
    policy::{Environment, compile, profile},
};
use std::{fs, path::Path, sync::OnceLock};

fn data() -> &'static Dataset {
    static DATA: OnceLock<Dataset> = OnceLock::new();
    DATA.get_or_init(|| Dataset::embedded().unwrap())
}

/// Everything that is said about a policy.
fn diagnose(source: Source) -> String {
    let parsed = parse(source);
    let now = data().built() + 24 * 60 * 60;
    let (head, findings) = match compile(&parsed, data(), &Environment::default(), now) {
        Ok(compiled) => ("usable\n", compiled.warnings),
        Err(findings) => ("not usable\n", findings),
    };
    let texts =
        findings.iter().map(|f| format!("\n{}\n[{}]\n", f.render(&parsed.source, false), f.code));
    head.to_owned() + &texts.collect::<String>()
}

#[test]
fn diagnostics_are_as_recorded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy-cases");
    let update = std::env::var_os("SOV_UPDATE_CASES").is_some();
    let mut cases: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 10, "{} cases in {}", cases.len(), root.display());
    let mut wrong = Vec::new();
    for case in cases {
        let input = fs::read(case.join("input.toml")).unwrap();
        let found = diagnose(Source::from_bytes("input.toml", &input));
        // Class numbers depend on the data.
        let found = without_numbers(&found, "class ");
        let expected = case.join("expected.txt");
        if update {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "other diagnostics than recorded:\n{}", wrong.join("\n"));
}

fn without_numbers(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        out += before;
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out += if rest.len() < part.len() { "N" } else { "" };
        out += rest;
    }
    out
}

#[test]
fn hostile_texts_are_answered() {
    let deep = |open: &str| format!("version = 1\nx = {}", open.repeat(100_000));
    let many = |line: &str| format!("version = 1\n{}", line.repeat(20_000));
    let texts = [
        String::new(),
        "\0".into(),
        "version = 1\0".into(),
        "version = 99999999999999999999999999999".into(),
        "version = -1\nversion = 2".into(),
        "version = 0x1".into(),
        "= = =\n[[[\n]]]\n\"".into(),
        "[tag]\nname = 1\n[[tag]]\n[defaults.x.y]\n[[defaults]]".into(),
        deep("["),
        deep("{ a = "),
        deep("[["),
        format!("{} = 1", "a.".repeat(100_000)),
        format!("name = \"{}\"", "\u{202e}日\x7f".repeat(50_000)),
        many("[[tag]]\nname = \"a\"\ntier = \"b\"\nrank = 1\n"),
        many("[[tier]]\nname = \"a\"\ndeny = [{ operator = \"zzz\" }]\n"),
        many("[[zone]]\nname = \"a\"\nprefixes = [\"10.0.0.0/8\", \"1.2.3.4/8\"]\n"),
        many("[[test]]\ntag = \"a\"\nreach = [\"1.1.1.1\"]\n"),
        many("x = \"\n"),
        many("[[tier]]\nname=\"t\"\nallow=[{prefix=\"1.0.0.0/8\",until=2027-01-01}]\n"),
        "version = 1\r\n\u{feff}name = 1979-05-27T07:32:00Z\r".into(),
        "version = nan\nname = inf\nnat64 = [\"::/96\", \"64:ff9b::/96\", \"fd00::/95\"]".into(),
    ];
    for text in texts {
        let started = std::time::Instant::now();
        let said = diagnose(Source::new("hostile", text.clone()));
        let head: String = text.chars().take(60).collect();
        assert!(said.starts_with("not usable"), "{head:?}");
        assert!(!said.contains('\0') && !said.contains('\u{202e}'), "{head:?}");
        assert!(started.elapsed().as_secs() < 15, "{head:?} took {:?}", started.elapsed());
    }
    for bytes in [&b"\xff\xfe"[..], b"version = 1\nname = \"\x80\"", b"\xef\xbb\xbf\xc3"] {
        assert!(diagnose(Source::from_bytes("bytes", bytes)).contains("not UTF-8"));
    }
}

/// A byte order mark and Windows line ends change nothing.
#[test]
fn line_ends_and_marks_are_accepted() {
    let text = format!("\u{feff}{}", profile(profile::DEFAULT).unwrap().replace('\n', "\r\n"));
    assert_eq!(diagnose(Source::from_bytes("p", text.as_bytes())), "usable\n");
}

#[test]
fn damaged_policies_are_answered() {
    let good = profile(profile::DEFAULT).unwrap().as_bytes();
    let junk = b"\"'[]{}=,.#\n\0\\/*:0-\xc3\xa9aT";
    let mut seed = 1u64;
    let mut next = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % limit
    };
    for _ in 0..2000 {
        let mut bytes = good.to_vec();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(3) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, junk[next(junk.len())]),
                _ => {
                    let to = (at + next(80)).min(bytes.len());
                    drop(bytes.drain(at..to));
                }
            }
        }
        let parsed = parse(Source::from_bytes("p", &bytes));
        let mut findings = parsed.findings.clone();
        findings.extend(crate::policy::lint::check(&parsed, data().catalog(), data().built()));
        for finding in findings {
            let text = finding.render(&parsed.source, false);
            assert!(text.starts_with("p:"), "{text}");
        }
    }
}

/// What the documentation shows is a policy that works.
#[test]
fn the_documented_policy_compiles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks: Vec<_> = text.split("```toml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let policy = block.split("```").next().unwrap();
        assert_eq!(diagnose(Source::new("docs/policy.md", policy)), "usable\n");
    }
}
