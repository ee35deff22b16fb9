//! Codes of a prefix table: classes, and where to look on. Sixteen bits each where both fit, else 32.

use sov_common::image::embedded;

use super::build::Layout;

/// In a value under construction: the rest is the number of a node or table.
pub(super) const NEXT: u32 = 1 << 31;

/// How the values of one family become codes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coding {
    /// 1 = codes of 16 bits, 0 = of 32.
    pub(super) width: u32,
    /// The code of node or table 0.
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Coding {
    /// For `count` nodes or tables. Classes are `0..classes`, or from `embedded::FIRST` on.
    pub(super) fn new(classes: u32, count: usize) -> Self {
        let count = count as u32;
        let narrow = classes.saturating_add(count) <= u32::from(embedded::FIRST);
        let (width, first) = if narrow { (1, classes) } else { (0, 1 << 16) };
        Self { width, first, count }
    }

    fn code(self, value: u32) -> u32 {
        if value & NEXT == 0 { value } else { self.first + (value & !NEXT) }
    }

    /// Appends values as codes; returns their offset.
    pub(super) fn append(self, words: &mut Layout, values: &[u32]) -> u32 {
        let at = words.0.len() as u32;
        if self.width == 0 {
            words.0.extend(values.iter().map(|value| self.code(*value)));
        } else {
            let pack = |two: &[u32]| {
                self.code(two[0]) | two.get(1).map_or(0, |high| self.code(*high) << 16)
            };
            words.0.extend(values.chunks(2).map(pack));
        }
        at
    }
}
