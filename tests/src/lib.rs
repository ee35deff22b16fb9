//! Test harness: namespaces, packets, traffic, the real agent, and a naive model of the policy.
//!
//! One file per thing. Guards clean up when dropped, also after a panic; a run that was killed is
//! cleaned up by the next one. Nothing here sends a packet outside of namespaces made here.

pub mod agent;
pub mod bpf;
pub mod cgroup;
pub mod cpu;
pub mod lab;
pub mod load;
pub mod model;
pub mod netns;
pub mod packet;
pub mod privilege;
pub mod rng;
pub mod rules;
pub mod sink;
pub mod sock;
pub mod traffic;
pub mod transcript;
