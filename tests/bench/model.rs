//! The report as data: what the benchmark writes to `report.json` and what `cargo xtask bench` draws.
//! Compiled into both. Owns names and shapes; measures and draws nothing.

use serde::{Deserialize, Serialize};

/// Of the shapes below; a reader refuses any other.
pub(crate) const VERSION: u32 = 1;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub version: u32,
    /// Few rounds: the figures say that everything works, not what it costs.
    pub quick: bool,
    /// Unix seconds at the start.
    pub started: u64,
    pub seconds: f64,
    /// (name, value): kernel, CPU, mitigations, versions of the peers.
    pub environment: Vec<(String, String)>,
    pub sections: Vec<Section>,
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Section {
    pub id: String,
    pub title: String,
    /// What the figures are and what they are not, a paragraph each.
    pub about: Vec<String>,
    pub plots: Vec<Plot>,
    pub groups: Vec<Group>,
}

/// Rows that were measured in turns with one another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Group {
    pub id: String,
    pub title: String,
    /// Of `value`, `low`, `high`.
    pub unit: String,
    /// Row that the ratios refer to.
    pub base: String,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub id: String,
    pub name: String,
    /// Median over the rounds; absent where the row could not be measured, and `note` says why.
    pub value: Option<f64>,
    /// First and third quartile over the rounds.
    pub low: f64,
    pub high: f64,
    pub rounds: usize,
    /// Median over the rounds of this row by the base row of the same round, with quartiles.
    pub ratio: Option<[f64; 3]>,
    pub note: String,
}

/// Lines over a logarithmic axis.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plot {
    pub title: String,
    pub x: String,
    pub y: String,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A figure that was promised, and what came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Target {
    pub metric: String,
    /// In words: `<= 45 ns`.
    pub reach: String,
    pub measured: String,
    /// Absent where it could not be measured.
    pub reached: Option<bool>,
}
