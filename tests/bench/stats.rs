//! Medians and quartiles over rounds, and ratios of rows that were measured in turns.

use crate::model::Row;

/// First quartile, median, third quartile. NaN without samples.
pub(crate) fn quartiles(samples: &[f64]) -> [f64; 3] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * part / 4).copied().unwrap_or(f64::NAN)
    };
    [at(1), at(2), at(3)]
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    quartiles(samples)[1]
}

/// A row of one sample per round.
pub(crate) fn row(id: &str, name: &str, samples: &[f64]) -> Row {
    let [low, middle, high] = quartiles(samples);
    Row {
        id: id.into(),
        name: name.into(),
        value: middle.is_finite().then_some(middle),
        low,
        high,
        rounds: samples.len(),
        ratio: None,
        note: String::new(),
    }
}

/// The same beside a base: the ratio is taken round by round.
pub(crate) fn row_by(id: &str, name: &str, samples: &[f64], base: &[f64]) -> Row {
    let ratios: Vec<f64> = samples.iter().zip(base).map(|(one, base)| one / base).collect();
    let [low, middle, high] = quartiles(&ratios);
    let ratio = middle.is_finite().then_some([low, middle, high]);
    Row { ratio, ..row(id, name, samples) }
}

/// A row that says why it has no figure.
pub(crate) fn absent(id: &str, name: &str, why: impl Into<String>) -> Row {
    Row { id: id.into(), name: name.into(), note: why.into(), ..Row::default() }
}

/// A single value that has no spread, for example a size.
pub(crate) fn single(id: &str, name: &str, value: f64) -> Row {
    row(id, name, &[value])
}
