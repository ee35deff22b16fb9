//! Walks a TOML table with places: takes known keys, reports wrong types and everything left over.
//!
//! serde would stop at the first mistake; this reports all of them. Knows nothing of policies.

use super::{
    super::{
        diagnostic::{Diagnostic, Span},
        model::Spanned,
    },
    suggest::closest,
    values::{Wrong, short},
};
use toml::de::{DeInteger, DeTable, DeValue};

pub(super) type Value<'a> = toml::Spanned<DeValue<'a>>;

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Diagnostic>,
}

impl Findings {
    pub(super) fn add(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    pub(super) fn wrong(&mut self, span: Span, wrong: Wrong) {
        self.add(Diagnostic::error(wrong.code, span, wrong.message).help(wrong.help));
    }

    /// `value`, or `None` and a finding at `span`.
    pub(super) fn check<T>(&mut self, span: Span, value: Result<T, Wrong>) -> Option<T> {
        value.map_err(|wrong| self.wrong(span, wrong)).ok()
    }

    fn wrong_type(&mut self, key: &str, want: &str, found: &Value<'_>) {
        let message = format!("`{key}` must be {want}, this is {}", kind(found.get_ref()));
        self.add(Diagnostic::error("type", found.span(), message).help(format!("write {want}")));
    }

    pub(super) fn string(&mut self, key: &str, value: &Value<'_>) -> Option<Spanned<String>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(text.clone().into_owned(), value.span())),
            _ => {
                self.wrong_type(key, "a string", value);
                None
            }
        }
    }

    /// A whole number from `low` to `high`.
    pub(super) fn integer(
        &mut self,
        key: &str,
        value: &Value<'_>,
        low: u32,
        high: u32,
    ) -> Option<Spanned<u32>> {
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(key, &format!("a whole number from {low} to {high}"), value);
            return None;
        };
        match to_i128(number).and_then(|n| u32::try_from(n).ok()) {
            Some(n) if (low..=high).contains(&n) => Some(Spanned::new(n, value.span())),
            _ => {
                let message = format!("`{key}` is {}", short(&number.to_string()));
                self.add(
                    Diagnostic::error("range", value.span(), message)
                        .help(format!("write a whole number from {low} to {high}")),
                );
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &str,
        value: &Value<'_>,
        words: &[(&str, T)],
    ) -> Option<Spanned<T>> {
        let text = self.string(key, value)?;
        if let Some(found) = words.iter().find(|word| word.0 == text.value) {
            return Some(Spanned::new(found.1, text.span));
        }
        let list: Vec<_> = words.iter().map(|word| format!("\"{}\"", word.0)).collect();
        let message = format!("`{key}` cannot be `{}`", short(&text.value));
        let help = format!("write {}", list.join(" or "));
        self.add(Diagnostic::error("value", text.span, message).help(help));
        None
    }

    /// The elements of a list.
    pub(super) fn list<'v, 'a>(
        &mut self,
        key: &str,
        of: &str,
        value: &'v Value<'a>,
    ) -> &'v [Value<'a>] {
        match value.get_ref() {
            DeValue::Array(items) => items,
            _ => {
                self.wrong_type(key, &format!("a list of {of}"), value);
                &[]
            }
        }
    }

    /// The strings of a list, each read by `read`; what is not read is left out.
    pub(super) fn strings<T>(
        &mut self,
        key: &str,
        value: &Value<'_>,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<Spanned<T>> {
        let mut out = Vec::new();
        for item in self.list(key, "strings", value) {
            let Some(text) = self.string(key, item) else { continue };
            if let Some(value) = self.check(text.span.clone(), read(&text.value)) {
                out.push(Spanned::new(value, text.span));
            }
        }
        out
    }

    pub(super) fn table<'v, 'a>(
        &mut self,
        key: &str,
        value: &'v Value<'a>,
        known: &[&str],
    ) -> Option<Fields<'v, 'a>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Fields::new(self, key, value.span(), table, known)),
            _ => {
                self.wrong_type(key, "a table", value);
                None
            }
        }
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables<'v, 'a>(
        &mut self,
        key: &str,
        value: &'v Value<'a>,
        known: &[&str],
    ) -> Vec<Fields<'v, 'a>> {
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|item| self.table(key, item, known)).collect()
            }
            DeValue::Table(_) => {
                let message = format!("`{key}` is one table, but there may be several");
                self.add(
                    Diagnostic::error("type", value.span(), message)
                        .help(format!("write [[{key}]] with two brackets")),
                );
                Vec::new()
            }
            _ => {
                self.wrong_type(key, "a list of tables", value);
                Vec::new()
            }
        }
    }
}

/// A table whose keys have been checked.
pub(super) struct Fields<'v, 'a> {
    name: &'static str,
    pub(super) span: Span,
    table: &'v DeTable<'a>,
}

impl<'v, 'a> Fields<'v, 'a> {
    /// Reports every key that is not in `known`.
    pub(super) fn new(
        findings: &mut Findings,
        name: &str,
        span: Span,
        table: &'v DeTable<'a>,
        known: &[&str],
    ) -> Self {
        for key in table.keys() {
            let text: &str = key.get_ref();
            if known.contains(&text) {
                continue;
            }
            let place = if name.is_empty() { String::new() } else { format!(" in `{name}`") };
            let message = format!("unknown field `{}`{place}", short(text));
            let help = match closest(text, known.iter().copied()) {
                Some(right) => format!("did you mean `{right}`?"),
                None => format!("fields here are {}", known.join(", ")),
            };
            findings.add(Diagnostic::error("unknown-field", key.span(), message).help(help));
        }
        Self { name: leak_free(name), span, table }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'v Value<'a>> {
        self.table.get(key)
    }

    /// Where a key stands.
    pub(super) fn key_span(&self, key: &str) -> Option<Span> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// A key that must be there.
    pub(super) fn need(
        &self,
        findings: &mut Findings,
        key: &str,
        help: &str,
    ) -> Option<&'v Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let message = format!("this {} has no `{key}`", self.name);
            findings.add(Diagnostic::error("missing", self.span.clone(), message).help(help));
        }
        value
    }
}

/// The names of tables are few and fixed.
fn leak_free(name: &str) -> &'static str {
    const NAMES: [&str; 9] =
        ["defaults", "zone", "tier", "tag", "test", "allow", "deny", "select", "policy"];
    NAMES.iter().find(|known| **known == name).copied().unwrap_or("policy")
}

fn to_i128(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
