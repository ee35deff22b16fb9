//! The demonstration: real packets between private network namespaces, judged by a real agent.
//!
//! Three roles of one binary. The *guard* is what the user starts: it owns the cgroup folder and the
//! end of everything. The *stage* lives in mount and network namespaces without names, so the kernel
//! removes it all with the last process. *Workloads* are its children: they send and say what they saw.
//! Nothing here decides a verdict, and nothing has a route out of the machine.

pub mod agent;
pub mod bench;
pub mod guard;
pub mod lab;
pub mod packet;
pub mod plan;
pub mod records;
pub mod room;
pub mod sink;
pub mod stage;
pub mod workload;
