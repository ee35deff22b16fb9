//! The built binary as its users meet it: golden transcripts, exit codes, and every example of the
//! documents. `SOV_BLESS=1` writes the transcripts anew.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use sov_tests::{
    agent::{self, Host},
    lab::Lab,
    privilege,
    transcript::{self, Step},
};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn markdown_in(dir: &Path) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    list.sort();
    list
}

#[test]
fn golden_transcripts() {
    let bin = agent::binary().unwrap();
    let cases = markdown_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cli/cases"));
    assert!(!cases.is_empty());
    let mut failures = vec![];
    for case in &cases {
        let text = fs::read_to_string(case).unwrap();
        let dir = tempfile::tempdir().unwrap();
        if std::env::var_os("SOV_BLESS").is_some() {
            fs::write(case, transcript::bless(&text, dir.path(), &bin).unwrap()).unwrap();
            continue;
        }
        let steps = transcript::read(&text).unwrap();
        for failure in transcript::execute(&steps, dir.path(), &bin, None).unwrap() {
            failures.push(format!("{}: {failure}", case.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every `console` block of README.md and docs. A document with commands for root needs privileges.
#[test]
fn every_example_of_the_documents() {
    let bin = agent::binary().unwrap();
    let mut documents = markdown_in(&project());
    documents.extend(markdown_in(&project().join("docs")));
    documents.extend(markdown_in(&project().join("docs/decisions")));
    let mut failures = vec![];
    let mut commands = 0;
    for document in &documents {
        let steps = transcript::read(&fs::read_to_string(document).unwrap()).unwrap();
        let root = steps.iter().any(|step| matches!(step, Step::Command(e) if e.root));
        commands += steps.iter().filter(|step| matches!(step, Step::Command(_))).count();
        let dir = tempfile::tempdir().unwrap();
        let name = document.display().to_string();
        let result = if root && privilege::allowed(&name) {
            // Root commands run in a namespace with an uplink, and folders of their own.
            let lab = Lab::new().unwrap();
            let host = Host::new().unwrap();
            let prepare = |command: &str| {
                let mut shell = host.command_of(&lab.work, "sh");
                shell.arg("-c").arg(format!("exec 2>&1\n{command}"));
                Ok(shell)
            };
            transcript::execute(&steps, dir.path(), &bin, Some(&prepare))
        } else {
            transcript::execute(&steps, dir.path(), &bin, None)
        };
        for failure in result.unwrap() {
            failures.push(format!("{name}: {failure}"));
        }
    }
    eprintln!("{commands} commands in {} documents", documents.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// No example may sit in a document in a form that nobody executes.
#[test]
fn no_example_escapes_execution() {
    let mut documents = markdown_in(&project());
    documents.extend(markdown_in(&project().join("docs")));
    let mut wrong = vec![];
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let mut inside: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            if let Some(info) = line.trim_start().strip_prefix("```") {
                inside = match inside {
                    None => Some(info.trim().to_owned()),
                    Some(_) => None,
                };
            } else if let Some(info) = &inside
                && !info.starts_with("console")
                && (line.starts_with("$ ") || line.trim_start().starts_with("sov-agent "))
            {
                wrong.push(format!("{}:{}: {line}", document.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "put these into `console` blocks:\n{}", wrong.join("\n"));
}

/// A promise names its test; the test must exist.
#[test]
fn every_test_named_in_the_specification_exists() {
    fn sources(dir: &Path, text: &mut String) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                sources(&path, text);
            } else if path.extension().is_some_and(|e| e == "rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut code = String::new();
    sources(&project(), &mut code);
    let specification = fs::read_to_string(project().join("docs/SPECIFICATION.md")).unwrap();
    let mut named = 0;
    for line in specification.lines().filter(|line| line.starts_with('|')) {
        let tests = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for name in tests.split('`').skip(1).step_by(2) {
            named += 1;
            assert!(code.contains(&format!("fn {name}(")), "{name} is promised, but not there");
        }
    }
    assert!(named > 20, "only {named} tests are named");
}

/// The output of the binary with `input` on stdin, and how long it took.
fn feed(args: &[&str], input: &str) -> (std::process::Output, std::time::Duration) {
    let start = Instant::now();
    let mut child = Command::new(agent::binary().unwrap())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output, start.elapsed())
}

/// A reader that goes away early is no error.
#[test]
fn a_broken_pipe_is_success() {
    let input: String = (0..50_000u32).map(|i| format!("{}\n", address(i))).collect();
    let bin = agent::binary().unwrap();
    let mut child = Command::new(bin)
        .args(["lookup", "--format", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    // One line is read, then the pipe is closed.
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(line.starts_with('{'), "{line}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn address(i: u32) -> std::net::IpAddr {
    // A spread over both families.
    let mixed = i.wrapping_mul(0x9e37_79b1);
    if i.is_multiple_of(2) {
        std::net::Ipv4Addr::from(mixed).into()
    } else {
        let high = 0x2400_0000 | mixed >> 8;
        std::net::Ipv6Addr::from(u128::from(high) << 96 | u128::from(mixed)).into()
    }
}

/// The documented speed is that of the release build; an unoptimised one gets more time.
#[test]
fn a_hundred_thousand_addresses_in_one_call() {
    let input: String = (0..100_000u32).map(|i| format!("{}\n", address(i))).collect();
    let limit = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    for args in [
        &["lookup", "--format", "json", "-"][..],
        &["explain", "--format", "json", "--tag", "sovereign", "-"],
    ] {
        let (output, took) = feed(args, &input);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.lines().count(), 100_000, "{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("{args:?}: {took:?}");
        assert!(took.as_secs_f64() < limit, "{args:?} took {took:?}");
        for line in text.lines().step_by(997) {
            let value: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            assert!(value["location"].is_string(), "{line}");
        }
    }
}
