//! The policy compiler: text and data in, diagnostics or a policy image out.
//!
//! Pure: no aya, no tokio, no clock, no sockets, no file access. The time is an argument.

pub mod change;
pub mod compare;
pub mod compile;
pub mod countries;
pub mod diagnostic;
pub mod image;
mod lattice;
mod lint;
pub mod meta;
pub mod model;
pub mod parse;
pub mod profile;
pub mod reach;
mod selftest;

pub use compile::{Compiled, Environment, Unresolved, compile};
pub use diagnostic::{Diagnostic, Severity, Source};
pub use meta::PolicyMeta;
pub use parse::{Parsed, parse};
pub use profile::profile;
pub use selftest::judge;
