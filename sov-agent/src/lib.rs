//! The agent's library: policy compiler, data, datapath, flow log, control.

pub mod data;
pub mod policy;
