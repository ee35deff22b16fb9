//! A Rust file as the rules see it: lines of code without comments, and where its tests begin.
//!
//! Works on lines, not on syntax. Block comments and strings over several lines are taken as code;
//! a rule that trips over one asks for the line to be written otherwise.

/// A line of code with its number, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub number: usize,
    pub code: &'a str,
    pub in_tests: bool,
}

/// The lines of a file without comments. Tests come last: all below `#[cfg(test)] mod` is theirs.
pub(crate) fn lines<'a>(path: &str, text: &'a str) -> Vec<Line<'a>> {
    let mut in_tests = path.ends_with("/tests.rs") || path.contains("/tests/");
    let mut marked = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = without_comment(line);
        let trimmed = code.trim();
        in_tests |= marked && is_module(trimmed);
        // Other attributes may stand between the mark and what it marks.
        marked = trimmed == "#[cfg(test)]" || marked && trimmed.starts_with("#[");
        lines.push(Line { number: index + 1, code, in_tests });
    }
    lines
}

/// Whether the text holds the words, not as a part of longer names.
pub(crate) fn names(code: &str, words: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(words).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + words.len()..].chars().next();
        let open_end = words.ends_with(|c: char| !part_of_name(c));
        !before.is_some_and(part_of_name) && (open_end || !after.is_some_and(part_of_name))
    })
}

/// An inline test module; `mod tests;` leaves the rest of the file outside.
fn is_module(code: &str) -> bool {
    (code.starts_with("mod ") || code.starts_with("pub(crate) mod ")) && code.ends_with('{')
}

/// Cuts at `//` outside of a string.
fn without_comment(line: &str) -> &str {
    let mut in_string = false;
    let mut bytes = line.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if in_string => drop(bytes.next()),
            // `'"'` is a character, not the start of a string.
            b'"' if !line[..at].ends_with('\'') || in_string => in_string = !in_string,
            b'/' if !in_string && bytes.peek().is_some_and(|(_, next)| *next == b'/') => {
                return &line[..at];
            }
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_cut_and_strings_are_not() {
        assert_eq!(without_comment("let a = 1; // dbg!"), "let a = 1; ");
        assert_eq!(without_comment(r#"let a = "http://x"; // y"#), r#"let a = "http://x"; "#);
        assert_eq!(without_comment(r#"let a = "\"//"; b"#), r#"let a = "\"//"; b"#);
        assert_eq!(without_comment("let q = '\"'; // y"), "let q = '\"'; ");
        assert_eq!(without_comment("//! docs"), "");
    }

    #[test]
    fn tests_begin_at_their_module_and_not_before() {
        let text =
            "use a;\n#[cfg(test)]\nuse b;\nfn c() {}\n#[cfg(test)]\n#[expect(x)]\nmod t {\n}\n";
        let tests: Vec<_> =
            lines("src/a.rs", text).iter().filter(|l| l.in_tests).map(|l| l.number).collect();
        assert_eq!(tests, [7, 8]);
        assert!(lines("src/a.rs", "#[cfg(test)]\nmod t;\nfn a() {}").iter().all(|l| !l.in_tests));
        assert!(lines("src/a/tests.rs", "fn a() {}").iter().all(|l| l.in_tests));
    }

    #[test]
    fn names_are_whole_words() {
        assert!(names("use aya::Ebpf;", "aya::"));
        assert!(!names("use kaya::Ebpf;", "aya::"));
        assert!(names("let i = Instant::now();", "Instant"));
        assert!(!names("InstantLike", "Instant") && !names("my_Instant", "Instant"));
    }
}
