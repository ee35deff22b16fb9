//! The flow log: one record schema, its encodings, and the local journal that every reader starts from.
//!
//! Judges nothing and drops nothing silently: what cannot be written is counted.

pub mod enrich;
pub mod host;
pub mod journal;
pub mod ocsf;
pub mod record;
pub(crate) mod words;

pub use record::FlowRecord;
