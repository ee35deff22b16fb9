//! What is known about destinations: location, operator, control. Bytes in, values out.
//!
//! Pure: no aya, no tokio, no clock, no sockets. The time of judgement is an argument.

pub mod catalog;
pub mod dataset;
pub mod embedded;
pub mod inside;
pub mod load;
pub mod mmdb;
pub mod model;
pub mod overlay;
mod packed;
pub mod prefixes;
pub mod table;
pub mod text;
pub mod world;
