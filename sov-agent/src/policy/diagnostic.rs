//! What is wrong with a policy, where, and how to mend it: as text with the offending line, or as JSON.
//!
//! Knows text and positions, not what a policy means. Source text is hostile: control characters are
//! shown as symbols, long lines are cut, nothing panics.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;
use std::{borrow::Cow, ops::Range};

/// Bytes in the source text.
pub type Span = Range<usize>;

/// Larger policies are refused unread.
pub const MAX_SOURCE_BYTES: usize = 64 << 20;
/// A policy that is wrong everywhere is reported up to here; the rest is counted.
pub const MAX_DIAGNOSTICS: usize = 200;
/// Longer lines are cut around the place that is meant.
const MAX_LINE_BYTES: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    Warning,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable word for programs, for example `host-bits`.
    pub code: &'static str,
    pub span: Span,
    pub message: String,
    /// The fix.
    pub help: Option<String>,
    /// Another place that belongs to it, with its label.
    pub other: Option<(Span, String)>,
}

impl Diagnostic {
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Error, code, span, message, help: None, other: None }
    }

    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn other(mut self, span: Span, label: impl Into<String>) -> Self {
        self.other = Some((span, label.into()));
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// `policy.toml:14:9: error: message`, the line with the place marked, and the fix.
    pub fn render(&self, source: &Source, color: bool) -> String {
        let (line, column) = source.position(self.span.start);
        let severity = self.severity.as_str();
        let head = format!("{}:{line}:{column}: {severity}: {}", source.name, self.message);
        let mut primary = snippet(source, &self.span, AnnotationKind::Primary, "");
        let mut elements = Vec::new();
        if let Some((span, label)) = &self.other {
            let start = source.lines[line - 1];
            let end = source.lines.get(line).copied().unwrap_or(source.text.len());
            if start <= span.start && span.end < end && end - start <= MAX_LINE_BYTES {
                let inside = AnnotationKind::Context.span(span.start - start..span.end - start);
                primary = primary.annotation(inside.label(label.as_str()));
            } else {
                elements.push(snippet(source, span, AnnotationKind::Context, label));
            }
        }
        elements.insert(0, primary);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_level(level).elements(elements);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let body = renderer.render(&[group]);
        let mut text = crate::text::visible(&head).into_owned();
        for line in body.lines() {
            text.push('\n');
            text.push_str(line.trim_end());
        }
        text
    }

    /// For JSON output.
    pub fn record(&self, source: &Source) -> Record {
        let (line, column) = source.position(self.span.start);
        let (end_line, end_column) = source.position(self.span.end);
        Record {
            severity: self.severity,
            code: self.code.to_owned(),
            file: source.name.clone(),
            line,
            column,
            end_line,
            end_column,
            message: self.message.clone(),
            help: self.help.clone(),
        }
    }
}

/// A [`Diagnostic`] as programs get it. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    pub severity: Severity,
    pub code: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// The text of a policy and where its lines start.
#[derive(Clone, Debug)]
pub struct Source {
    /// File name for messages.
    pub name: String,
    text: String,
    lines: Vec<usize>,
    /// Why the text must not be used.
    damage: Option<Box<Diagnostic>>,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let mut lines = vec![0];
        lines.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        Self { name: name.into(), text, lines, damage: None }
    }

    /// Text that is too large or not UTF-8 gives a source whose [`Source::damage`] says so.
    pub fn from_bytes(name: impl Into<String>, bytes: &[u8]) -> Self {
        if bytes.len() > MAX_SOURCE_BYTES {
            let message =
                format!("a policy of {} bytes; the limit is {MAX_SOURCE_BYTES} bytes", bytes.len());
            let damage = Diagnostic::error("too-large", 0..0, message).help(
                "give long prefix lists to the data directory, or join neighbouring prefixes",
            );
            return Self { damage: Some(Box::new(damage)), ..Self::new(name, "") };
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::new(name, text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let at = error.valid_up_to();
                let damage = Diagnostic::error("not-utf8", at..at + 1, "the text is not UTF-8")
                    .help("save the file as UTF-8");
                let source = Self::new(name, String::from_utf8_lossy(bytes));
                Self { damage: Some(Box::new(damage)), ..source }
            }
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn damage(&self) -> Option<&Diagnostic> {
        self.damage.as_deref()
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let byte = floor(&self.text, byte);
        let line = self.lines.partition_point(|start| *start <= byte);
        let start = self.lines[line - 1];
        (line, self.text[start..byte].chars().count() + 1)
    }

    /// The lines from `first` to `last` (counted from 1) without the last line break, and their start.
    fn window(&self, first: usize, last: usize) -> (usize, &str) {
        let start = self.lines[first - 1];
        let end = self.lines.get(last).copied().unwrap_or(self.text.len());
        (start, self.text[start..end].trim_end_matches(['\n', '\r']))
    }
}

/// The lines of `span`, cut to a bearable size, with the span marked.
fn snippet<'a>(
    source: &'a Source,
    span: &Span,
    kind: AnnotationKind,
    label: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let (start, end) = (floor(&source.text, span.start), floor(&source.text, span.end));
    let (line, _) = source.position(start);
    // A span over several lines (a whole table) is marked by its first line.
    let (offset, text) = source.window(line, line);
    let from = (start - offset).min(text.len());
    let to = (end.max(start) - offset).clamp(from, text.len());
    let (cut_from, cut_to) = if text.len() > MAX_LINE_BYTES {
        let cut_from = floor(text, from.saturating_sub(MAX_LINE_BYTES / 4));
        (cut_from, floor(text, cut_from + MAX_LINE_BYTES))
    } else {
        (0, text.len())
    };
    let (from, to) = (from.min(cut_to) - cut_from, to.clamp(cut_from, cut_to) - cut_from);
    let annotation = kind.span(from..to.max(from));
    let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
    Snippet::source(Cow::Borrowed(&text[cut_from..cut_to])).line_start(line).annotation(annotation)
}

/// The nearest character boundary at or before `byte`.
fn floor(text: &str, byte: usize) -> usize {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

/// In the order of the text, errors first at one place, without repetitions.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by(|a, b| {
        (a.span.start, a.severity, a.code, &a.message).cmp(&(
            b.span.start,
            b.severity,
            b.code,
            &b.message,
        ))
    });
    diagnostics.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_line_and_fix() {
        let source = Source::new("p.toml", "a = 1\nname = \"日本\" # x\n");
        let at = source.text().find("\"日本").unwrap();
        let text = Diagnostic::error("x", at..at + 8, "no such name").help("write \"b\"");
        let text = text.render(&source, false);
        assert!(text.starts_with("p.toml:2:8: error: no such name\n"), "{text}");
        assert!(text.contains("2 | name = \"日本\" # x"), "{text}");
        assert!(text.contains("help: write \"b\""), "{text}");
    }

    #[test]
    fn positions_count_characters_and_survive_any_byte() {
        let source = Source::new("p", "é\r\nx");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(1), (1, 1));
        assert_eq!(source.position(2), (1, 2));
        assert_eq!(source.position(4), (2, 1));
        assert_eq!(source.position(99), (2, 2));
        assert_eq!(Source::new("p", "").position(3), (1, 1));
    }

    #[test]
    fn hostile_lines_are_cut_and_made_harmless() {
        let long = format!("{}\x1b[2J{}", "é".repeat(5000), "y".repeat(5000));
        let source = Source::new("p\n", long);
        let at = source.text().find('\x1b').unwrap();
        let text = Diagnostic::error("x", at..at + 1, "bad \x1b").render(&source, true);
        let plain = Diagnostic::error("x", at..at + 9_000, "bad \x1b").render(&source, false);
        assert!(!plain.contains('\x1b') && plain.len() < 3_000, "{plain}");
        assert!(text.lines().count() < 10, "{text}");
        let bytes = Source::from_bytes("p", b"a = \"\xff\"");
        let damage = bytes.damage().unwrap().clone();
        assert!(damage.render(&bytes, false).starts_with("p:1:6: error: the text is not UTF-8"));
    }
}
