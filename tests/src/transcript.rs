//! Console transcripts in Markdown, executed: what the documents show is what the program does.
//!
//! In a fenced block of language `console`, a line `$ COMMAND` is run with `sh` and the lines below
//! it, up to the next command, are what it prints (standard output and error together, in order).
//! `# COMMAND` is the same for commands that need root. A line `...` stands for any number of lines,
//! `[..]` inside a line for any text, `[exit N]` alone on a line for an exit code other than 0. A
//! block of any language with `file=NAME` after it is written to that file first. Blocks marked
//! `console,norun` are not executed: they belong to another machine or another test, and say so.
//! `tests/cli/cases/*.md` and the project's documents are read by the same rules.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// One thing to do, in the order of the document.
#[derive(Debug)]
pub enum Step {
    File { name: String, text: String },
    Command(Example),
}

/// A command and what it should print.
#[derive(Debug)]
pub struct Example {
    /// Line of the command in the document, from 1.
    pub line: usize,
    pub command: String,
    pub root: bool,
    pub expected: Vec<String>,
    pub exit: i32,
}

/// Reads a document. Blocks without `console` or `file=` are left out.
pub fn read(document: &str) -> Result<Vec<Step>> {
    let mut steps = vec![];
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let mut block = vec![];
        let closed = lines.by_ref().any(|(at, line)| {
            let end = line.trim_start() == "```";
            if !end {
                block.push((at + 1, line));
            }
            end
        });
        ensure!(closed, "line {}: a fenced block without an end", number + 1);
        if let Some(name) = info.split_whitespace().find_map(|word| word.strip_prefix("file=")) {
            let text = block.iter().map(|(_, line)| format!("{line}\n")).collect();
            steps.push(Step::File { name: name.to_owned(), text });
        } else if info.trim() == "console" {
            steps.extend(examples(&block).into_iter().map(Step::Command));
        }
    }
    Ok(steps)
}

fn examples(block: &[(usize, &str)]) -> Vec<Example> {
    let mut list: Vec<Example> = vec![];
    for (number, line) in block {
        let prompt = line.strip_prefix("$ ").map(|c| (c, false));
        let prompt = prompt.or_else(|| line.strip_prefix("# ").map(|c| (c, true)));
        let Some(example) = list.last_mut() else {
            if let Some((command, root)) = prompt {
                list.push(Example::new(*number, command, root));
            }
            continue;
        };
        if example.expected.is_empty() && example.command.ends_with('\\') {
            example.command.pop();
            example.command.push_str(line.trim_start().trim_start_matches("> "));
        } else if let Some((command, root)) = prompt {
            list.push(Example::new(*number, command, root));
        } else if let Some(code) = exit_code(line) {
            example.exit = code;
        } else {
            example.expected.push((*line).to_owned());
        }
    }
    list
}

fn exit_code(line: &str) -> Option<i32> {
    line.strip_prefix("[exit ")?.strip_suffix(']')?.parse().ok()
}

impl Example {
    fn new(line: usize, command: &str, root: bool) -> Self {
        Self { line, command: command.to_owned(), root, expected: vec![], exit: 0 }
    }
}

/// Makes a shell for a command of root: in a namespace, with folders of its own.
pub type Prepare<'a> = dyn Fn(&str) -> Result<Command> + 'a;

/// Runs a document's steps in `dir`, with `bin` first in PATH. Returns the failures, in words.
/// Commands of root run only with `root`.
pub fn execute(
    steps: &[Step],
    dir: &Path,
    bin: &Path,
    root: Option<&Prepare<'_>>,
) -> Result<Vec<String>> {
    let mut failures = vec![];
    for step in steps {
        match step {
            Step::File { name, text } => {
                let path = dir.join(name);
                ensure!(path.starts_with(dir) && !name.contains(".."), "file name {name}");
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                std::fs::write(path, text)?;
            }
            Step::Command(example) => {
                let mut command = match (example.root, root) {
                    (false, _) => shell(&example.command),
                    (true, Some(prepare)) => prepare(&example.command)?,
                    (true, None) => continue,
                };
                let (text, code) = run(&mut command, dir, bin)?;
                if let Some(problem) = differs(example, &text, code) {
                    failures.push(problem);
                }
            }
        }
    }
    Ok(failures)
}

/// A shell that runs the command; standard error goes where standard output goes.
pub fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec 2>&1\n{command}"));
    shell
}

fn run(command: &mut Command, dir: &Path, bin: &Path) -> Result<(String, i32)> {
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = bin.parent().context("the binary has a folder")?;
    let out = command
        .current_dir(dir)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("NO_COLOR", "1")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .context("run sh")?;
    Ok((String::from_utf8_lossy(&out.stdout).into_owned(), out.status.code().unwrap_or(-1)))
}

fn differs(example: &Example, text: &str, code: i32) -> Option<String> {
    let actual: Vec<&str> = text.lines().map(str::trim_end).collect();
    let expected: Vec<&str> = example.expected.iter().map(|line| line.trim_end()).collect();
    if code == example.exit && lines_match(&expected, &actual) {
        return None;
    }
    let mut out = format!("line {}: $ {}\n", example.line, example.command);
    if code != example.exit {
        let _ = writeln!(out, "  exit code {code}, expected {}", example.exit);
    }
    for line in &expected {
        let _ = writeln!(out, "  - {line}");
    }
    for line in &actual {
        let _ = writeln!(out, "  + {line}");
    }
    Some(out)
}

fn lines_match(expected: &[&str], actual: &[&str]) -> bool {
    match expected.split_first() {
        None => actual.is_empty(),
        Some((&"...", rest)) => (0..=actual.len()).any(|n| lines_match(rest, &actual[n..])),
        Some((first, rest)) => actual
            .split_first()
            .is_some_and(|(line, others)| line_matches(first, line) && lines_match(rest, others)),
    }
}

fn line_matches(expected: &str, actual: &str) -> bool {
    let mut parts = expected.split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The document with the output that the commands gave, for `SOV_BLESS=1`. Wildcards in an example
/// that still matches are kept.
pub fn bless(document: &str, dir: &Path, bin: &Path) -> Result<String> {
    let mut changed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for step in read(document)? {
        match step {
            Step::Command(example) if !example.root => {
                let (text, code) = run(&mut shell(&example.command), dir, bin)?;
                if differs(&example, &text, code).is_some() {
                    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                    if code != 0 {
                        lines.push(format!("[exit {code}]"));
                    }
                    changed.insert(example.line, lines);
                }
            }
            Step::Command(_) => {}
            file @ Step::File { .. } => drop(execute(&[file], dir, bin, None)?),
        }
    }
    let mut out = String::new();
    let mut skipping = false;
    for (number, line) in document.lines().enumerate() {
        let command = line.starts_with("$ ") || line.starts_with("# ");
        if skipping && (command || line.trim_start() == "```") {
            skipping = false;
        }
        if !skipping {
            let _ = writeln!(out, "{line}");
        }
        if let Some(lines) = changed.get(&(number + 1)) {
            for line in lines {
                let _ = writeln!(out, "{line}");
            }
            skipping = true;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        assert!(lines_match(&["a", "...", "z"], &["a", "b", "c", "z"]));
        assert!(lines_match(&["a", "...", "z"], &["a", "z"]));
        assert!(!lines_match(&["a", "...", "z"], &["a", "b"]));
        assert!(!lines_match(&["a"], &["a", "b"]));
        assert!(line_matches("took [..] ms, [..]", "took 12 ms, done"));
        assert!(!line_matches("took [..] ms", "took 12 s"));
        assert!(line_matches("plain", "plain"));
        assert!(!line_matches("plain", "plainer"));
    }

    #[test]
    fn a_document_is_executed_and_held_to_its_words() {
        let text = "# Title\n```toml file=a/x.toml\none = 1\n```\n```console\n$ cat a/x.toml\none = 1\n\
                    $ sh -c 'echo no >&2; exit 3'\nno\n[exit 3]\n# id -u\n0\n```\n\
                    ```console,norun\n$ false\n```\n";
        let steps = read(text).unwrap();
        assert_eq!(steps.len(), 4);
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        assert_eq!(execute(&steps, dir.path(), &bin, None).unwrap(), Vec::<String>::new());
        let wrong = read(&text.replace("no\n[exit 3]", "yes")).unwrap();
        let failures = execute(&wrong, dir.path(), &bin, None).unwrap();
        assert_eq!(failures.len(), 1);
        assert!(failures[0].contains("exit code 3, expected 0"), "{failures:?}");
        assert!(failures[0].contains("- yes\n  + no"), "{failures:?}");
        let blessed = bless(&text.replace("one = 1\n$", "two = 2\n$"), dir.path(), &bin).unwrap();
        assert_eq!(blessed, text);
    }
}
