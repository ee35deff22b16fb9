//! The policy image: what goes in ([`ImageSpec`]), how it is laid out, and reading it back.
//!
//! The layout is `sov_common::image`. Nothing here knows TOML, countries or operators: the compiler
//! has already reduced them to classes and decisions.

mod build;
mod codes;
mod early;
mod file;
mod rebind;
mod selectors;
mod spec;
mod v4;
mod v6;

pub use build::{BuildError, Image};
pub use file::ImageError;
pub use rebind::Numbers;
pub use spec::{
    ChainEntry, DecisionSpec, Final, ImageSpec, Mode, PortRange, Response, SelectorSpec, TagSpec,
};

#[cfg(test)]
mod tests;
