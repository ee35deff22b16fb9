//! "Did you mean": the nearest known word, or nothing.

/// The word of `known` nearest to `text`, if it is near enough to be meant.
pub fn closest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // The distance is quadratic; nobody means a word with a text of this length.
    if text.len() > 64 {
        return None;
    }
    let lower = text.to_lowercase();
    let limit = (text.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= limit && *distance < word.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_else() {
        let known = ["location", "control", "JP", "sakura"];
        assert_eq!(closest("locaton", known), Some("location"));
        assert_eq!(closest("contorl", known), Some("control"));
        assert_eq!(closest("jp", known), Some("JP"));
        assert_eq!(closest("Sakura", known), Some("sakura"));
        assert_eq!(closest("zone", known), None);
        assert_eq!(closest("", known), None);
        assert_eq!(closest(&"x".repeat(100_000), known), None);
    }
}
