//! Text from outside (policies, data files, process names, AS names), made safe to show and to record.
//!
//! Owns the one list of characters that may drive a terminal or forge a line. Decides nothing about where
//! such text is refused: the readers of policy and data refuse it, what prints escapes it.

use std::borrow::Cow;

/// Whether `c` moves a cursor, ends a line or turns the direction of writing (Unicode bidirectional
/// controls, UAX #9; U+2028 and U+2029 end a line in some viewers).
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// `text` with hidden characters in their escaped form.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_cannot_drive_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert!(matches!(visible("さくら"), Cow::Borrowed(_)));
    }
}
