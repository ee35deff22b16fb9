//! Line plots over logarithmic axes, by hand: two hundred lines less than a plotting crate would add
//! packages, and colours that follow the page (light, dark), which none of them offers.

use std::fmt::Write as _;

use super::{
    html::escape,
    model::{Plot, Series},
    number,
};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 28.0;
const RIGHT: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// Height of a line of the legend.
const LINE: f64 = 17.0;
const COLOURS: usize = 8;

/// An axis: decades from `low` to `high`.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// The smallest and largest value, widened to 1, 2 or 5 of a decade. Values below `floor` do not
    /// fit a logarithmic axis and count as `floor`.
    fn of(values: impl Iterator<Item = f64>, floor: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, floor);
        for value in values.filter(|value| value.is_finite()) {
            low = low.min(value.max(floor));
            high = high.max(value);
        }
        if !low.is_finite() {
            low = floor;
        }
        Self { low: step_down(low), high: step_up(high.max(low * 1.01)) }
    }

    /// 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let (low, high) = (self.low.log10(), self.high.log10());
        ((value.max(self.low).log10() - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Marks at 1, 2 and 5 of each decade; at 1 alone where there are many.
    fn marks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        (first..=last)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|mark| *mark >= self.low * 0.999 && *mark <= self.high * 1.001)
            .collect()
    }
}

fn step_down(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    [5.0, 2.0, 1.0].map(|step| step * decade).into_iter().find(|at| *at <= value).unwrap_or(decade)
}

fn step_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|at| *at >= value * 0.9999).unwrap_or(decade * 10.0)
}

/// The plot as an `<svg>` element with its legend below.
pub(super) fn lines(plot: &Plot) -> String {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let x = Axis::of(points().map(|point| point.0), 1.0);
    let y = Axis::of(points().map(|point| point.1), 1.0);
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let down = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let height = HEIGHT + LINE * plot.series.len().div_ceil(2) as f64 + 8.0;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\"><text x=\"{LEFT}\" \
         y=\"16\" font-weight=\"600\">{0}</text>",
        escape(&plot.title)
    );
    for mark in x.marks() {
        let at = across(mark);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 15.0,
            mark_text(mark)
        );
    }
    for mark in y.marks() {
        let at = down(mark);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            at + 4.0,
            mark_text(mark)
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 9.0,
        escape(&plot.x),
        WIDTH - RIGHT,
        16,
        escape(&plot.y),
    );
    for (index, series) in plot.series.iter().enumerate() {
        let colour = format!("var(--s{})", index % COLOURS);
        line(series, &colour, &across, &down, &mut out);
        let (column, row) = (index % 2, index / 2);
        let left = LEFT + column as f64 * (WIDTH - LEFT) / 2.0;
        let top = HEIGHT + 8.0 + row as f64 * LINE;
        let _ = write!(
            out,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            top - 9.0,
            left + 15.0,
            top,
            escape(&series.name)
        );
    }
    out.push_str("</svg>\n");
    out
}

fn line(
    series: &Series,
    colour: &str,
    across: &impl Fn(f64) -> f64,
    down: &impl Fn(f64) -> f64,
    out: &mut String,
) {
    let places: Vec<(f64, f64)> =
        series.points.iter().map(|point| (across(point.0), down(point.1))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(
        out,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
        path.join(" ")
    );
    for ((x, y), point) in places.iter().zip(&series.points) {
        let _ = write!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {}</title></circle>",
            escape(&series.name),
            number(point.1)
        );
    }
}

/// `1k`, `20k`, `1M`.
fn mark_text(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", value / 1e6),
        1e3.. => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values() {
        let axis = Axis::of([1_000.0, 37_000.0, 1e6].into_iter(), 1.0);
        assert_eq!((axis.low, axis.high), (1e3, 1e6));
        assert_eq!((axis.place(1e3), axis.place(1e6)), (0.0, 1.0));
        assert_eq!(axis.marks(), [1e3, 1e4, 1e5, 1e6]);
        let axis = Axis::of([-4.0, 37.0, 160.0].into_iter(), 1.0);
        assert_eq!((axis.low, axis.high), (1.0, 200.0));
        // Nothing to show is no reason to divide by zero.
        let axis = Axis::of(std::iter::empty(), 1.0);
        assert!(axis.place(5.0).is_finite());
    }

    #[test]
    fn marks_are_short() {
        assert_eq!([1.0, 500.0, 20_000.0, 1e6].map(mark_text), ["1", "500", "20k", "1M"]);
    }
}
