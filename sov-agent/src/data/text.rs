//! Comma-separated text, read strictly: every field knows its line and column, every problem is reported.
//!
//! Knows quoting and limits; what the fields mean is the caller's business.

use std::fmt;

/// Longest accepted line, in bytes.
const MAX_LINE: usize = 4096;
/// Problems kept; more are counted.
const MAX_PROBLEMS: usize = 50;

/// One thing wrong in one file. Displayed as `file:line:column: what is wrong; what to write`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// 1-based; 0 where the whole file is meant.
    pub line: usize,
    /// 1-based byte column; 0 where the whole line is meant.
    pub column: usize,
    pub message: String,
    pub fix: String,
}

/// Everything wrong with an input; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    pub list: Vec<Problem>,
    /// Problems beyond those in the list.
    pub more: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        write!(f, ": {}; {}", self.message, self.fix)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { list: vec![problem], more: 0 }
    }
}

/// Collects problems of one file.
pub struct Report<'a> {
    file: &'a str,
    problems: Problems,
}

impl<'a> Report<'a> {
    pub fn new(file: &'a str) -> Self {
        Self { file, problems: Problems { list: Vec::new(), more: 0 } }
    }

    pub fn add(
        &mut self,
        line: usize,
        column: usize,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.problems.list.len() == MAX_PROBLEMS {
            self.problems.more += 1;
            return;
        }
        self.problems.list.push(Problem {
            file: self.file.to_owned(),
            line,
            column,
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// Problems so far.
    pub fn count(&self) -> usize {
        self.problems.list.len() + self.problems.more
    }

    /// `value` if nothing was wrong. Problems come in line order.
    pub fn finish<T>(mut self, value: T) -> Result<T, Problems> {
        if self.problems.list.is_empty() {
            return Ok(value);
        }
        self.problems.list.sort_by_key(|problem| (problem.line, problem.column));
        Err(self.problems)
    }
}

/// One field: its text without quotes, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub text: String,
    pub column: usize,
}

/// One row with exactly the wanted number of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub line: usize,
    pub fields: Vec<Field>,
}

/// Splits `bytes` into rows under `header`, which must be the first row. Lines that start with `#` and
/// empty lines are skipped. Rows that cannot be split are reported and left out.
pub fn rows(bytes: &[u8], header: &[&str], report: &mut Report<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut header_seen = false;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if line.len() > MAX_LINE {
            report.add(
                number,
                0,
                format!("the line has {} bytes", line.len()),
                format!("keep lines under {MAX_LINE} bytes"),
            );
            continue;
        }
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                report.add(
                    number,
                    error.valid_up_to() + 1,
                    "the text is not UTF-8",
                    "save it as UTF-8",
                );
                continue;
            }
        };
        if let Some(at) = text.find(crate::text::is_hidden) {
            report.add(number, at + 1, "a control character", "remove it");
            continue;
        }
        let fields = match split(text) {
            Ok(fields) => fields,
            Err(column) => {
                report.add(
                    number,
                    column,
                    "a quote that is not closed, or text behind a closing quote",
                    "write \"...\" around the whole field and \"\" for a quote inside",
                );
                continue;
            }
        };
        if !header_seen {
            header_seen = true;
            if !fields.iter().map(|field| field.text.as_str()).eq(header.iter().copied()) {
                report.add(
                    number,
                    1,
                    "the first row is not the expected header",
                    format!("write {}", header.join(",")),
                );
                return rows;
            }
            continue;
        }
        if fields.len() != header.len() {
            report.add(
                number,
                1,
                format!("{} fields", fields.len()),
                format!("write {}: {}", header.len(), header.join(",")),
            );
            continue;
        }
        rows.push(Row { line: number, fields });
    }
    if !header_seen {
        report.add(0, 0, "the file is empty", format!("start it with {}", header.join(",")));
    }
    rows
}

/// `Err` is the column where the quoting breaks.
fn split(text: &str) -> Result<Vec<Field>, usize> {
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let column = at + 1;
        let rest = &text[at..];
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut parts = quoted.split('"');
            let mut length = 1;
            loop {
                let part = parts.next().unwrap_or("");
                length += part.len() + 1;
                field.push_str(part);
                // A quote follows the part: it closes the field, or stands doubled for itself.
                if length > rest.len() {
                    return Err(column);
                }
                if !rest[length..].starts_with('"') {
                    break;
                }
                field.push('"');
                length += 1;
                parts.next();
            }
            at += length;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err(column);
            }
            field.push_str(&rest[..end]);
            at += end;
        }
        fields.push(Field { text: field, column });
        match text.as_bytes().get(at) {
            None => return Ok(fields),
            Some(b',') => at += 1,
            Some(_) => return Err(at + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Result<Vec<String>, usize> {
        split(line).map(|fields| fields.into_iter().map(|field| field.text).collect())
    }

    #[test]
    fn splits_plain_and_quoted_fields() {
        let ok = |line: &str, expected: &[&str]| {
            assert_eq!(texts(line).unwrap(), expected, "{line}");
        };
        ok("a,b", &["a", "b"]);
        ok("", &[""]);
        ok("a,", &["a", ""]);
        ok(r#""a,b",c"#, &["a,b", "c"]);
        ok(r#""a ""b"" c",d"#, &[r#"a "b" c"#, "d"]);
        ok(r#""""#, &[""]);
        ok(r#""""""#, &["\""]);
        assert_eq!(texts(r#"a,"b"#), Err(3));
        assert_eq!(texts(r#"a"b"#), Err(1));
        assert_eq!(texts(r#""a"b"#), Err(4));
        assert_eq!(texts("\""), Err(1));
        assert_eq!(split("ab,\"c\",d").unwrap()[2].column, 8);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::vec("[a-z,\" é]{0,6}", 1..5)) {
            let line: Vec<_> = fields.iter().map(|f| format!("\"{}\"", f.replace('"', "\"\""))).collect();
            proptest::prop_assert_eq!(texts(&line.join(",")).unwrap(), fields);
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut report = Report::new("f.csv");
            rows(&bytes, &["a", "b"], &mut report);
        }
    }

    #[test]
    fn reports_every_problem_with_its_place() {
        let mut report = Report::new("f.csv");
        let rows = rows(b"# c\na,b\r\n1,2\n1\n\"x,2\nq,\xff\n3,4\x1b[0m", &["a", "b"], &mut report);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].line, rows[0].fields[1].column), (3, 3));
        let text = report.finish(()).unwrap_err().to_string();
        let places: Vec<_> = text.lines().map(|line| &line[..9]).collect();
        assert_eq!(places, ["f.csv:4:1", "f.csv:5:1", "f.csv:6:3", "f.csv:7:4"], "{text}");
    }
}
