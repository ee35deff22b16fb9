//! The policy compiler: text and data in, diagnostics or a policy image out.
//!
//! Pure: no aya, no tokio, no clock, no sockets, no file access. The time is an argument.

pub mod image;
