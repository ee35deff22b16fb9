//! The `sov-agent` binary.
fn main() {}
