//! Writing to stdout: JSON lines, aligned tables, colour. Owns no data and no wording.
//!
//! Text that came from outside (process names, AS names, labels) goes through `visible`, so that no record
//! can move a terminal's cursor or forge a line.

use std::{
    borrow::Cow,
    env,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write},
};

use serde::Serialize;

use super::{Color, Format, Global};
use crate::text::visible;

/// Buffered, locked stdout. Call [`Output::finish`] at the end: dropping swallows errors.
pub struct Output {
    out: BufWriter<StdoutLock<'static>>,
    pub format: Format,
    color: bool,
}

impl Output {
    pub fn new(global: &Global) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            format: global.format,
            color: use_color(global.color),
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes `value` as one JSON line.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// `text` in the given colour, or as it is when colours are off. Does not clean.
    pub fn paint<'a>(&self, paint: Paint, text: &'a str) -> Cow<'a, str> {
        if self.color { Cow::Owned(paint.wrap(text)) } else { Cow::Borrowed(text) }
    }

    /// Writes `table` with its columns aligned.
    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        table.write(&mut self.out, self.color)
    }

    /// Flushes. A closed pipe comes back as an error of kind `BrokenPipe`, which `main` turns into success.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Red,
    Green,
    Yellow,
    Cyan,
    Bold,
    Dim,
}

impl Paint {
    fn wrap(self, text: &str) -> String {
        let code = match self {
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Rows of cells, left-aligned unless a column is marked [`Table::right`]. Two spaces between columns.
pub struct Table {
    header: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

pub struct Cell {
    text: String,
    paint: Option<Paint>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), paint: None }
    }
}

impl Cell {
    pub fn painted(paint: Paint, text: impl Into<String>) -> Self {
        Self { text: text.into(), paint: Some(paint) }
    }
}

impl Table {
    /// An empty header list leaves the header line out.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), right: Vec::new(), rows: Vec::new() }
    }

    /// Right-aligns columns, for numbers.
    pub fn right(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            self.right.resize(self.right.len().max(column + 1), false);
            self.right[column] = true;
        }
        self
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn write(&self, out: &mut dyn Write, color: bool) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).chain([self.header.len()]).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for (column, name) in self.header.iter().enumerate() {
            widths[column] = name.chars().count();
        }
        let rows: Vec<Vec<(Cow<'_, str>, Option<Paint>)>> = (self.rows.iter())
            .map(|row| row.iter().map(|cell| (visible(&cell.text), cell.paint)).collect())
            .collect();
        for row in &rows {
            for (column, (text, _)) in row.iter().enumerate() {
                widths[column] = widths[column].max(text.chars().count());
            }
        }
        if !self.header.is_empty() {
            let header = self.header.iter().map(|&h| (Cow::Borrowed(h), Some(Paint::Bold)));
            self.line(out, color, &widths, &header.collect::<Vec<_>>())?;
        }
        rows.iter().try_for_each(|row| self.line(out, color, &widths, row))
    }

    fn line(
        &self,
        out: &mut dyn Write,
        color: bool,
        widths: &[usize],
        cells: &[(Cow<'_, str>, Option<Paint>)],
    ) -> io::Result<()> {
        for (column, (text, paint)) in cells.iter().enumerate() {
            let gap = " ".repeat(widths[column] - text.chars().count());
            let right = self.right.get(column).copied().unwrap_or(false);
            let text = match paint {
                Some(paint) if color => Cow::Owned(paint.wrap(text)),
                _ => Cow::Borrowed(&**text),
            };
            let last = column + 1 == cells.len();
            match (right, last) {
                (true, _) => write!(out, "{gap}{text}")?,
                (false, true) => write!(out, "{text}")?,
                (false, false) => write!(out, "{text}{gap}")?,
            }
            out.write_all(if last { b"\n" } else { b"  " })?;
        }
        Ok(())
    }
}

/// Whether to colour stdout.
pub fn use_color(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stdout().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
                && env::var_os("TERM").is_none_or(|t| t != "dumb")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(table: &Table, color: bool) -> String {
        let mut out = Vec::new();
        table.write(&mut out, color).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let mut table = Table::new(&["tag", "packets"]).right(&[1]);
        table.row(["koseki".into(), "7".into()]);
        table.row(["x".into(), "1234567890".into()]);
        assert_eq!(
            rendered(&table, false),
            "tag        packets\nkoseki           7\nx       1234567890\n"
        );
    }

    #[test]
    fn colour_does_not_change_the_width() {
        let mut table = Table::new(&[]);
        table.row([Cell::painted(Paint::Red, "block"), "a".into()]);
        table.row(["would_block".into(), "b".into()]);
        assert_eq!(rendered(&table, true), "\x1b[31mblock\x1b[0m        a\nwould_block  b\n");
    }
}
