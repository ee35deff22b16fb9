//! The agent's library: policy compiler, data, datapath, flow log, control.

pub mod agent;
pub mod cli;
pub mod control;
pub mod data;
pub mod datapath;
pub mod demo;
pub mod flowlog;
pub mod metrics;
pub mod policy;
mod text;
