//! What the kernel programs, the agent and the tests share: ABI types, the policy image and the classifier.
//!
//! `no_std`, pure, no dependencies. The kernel side runs this code on a BPF map, the agent on the same
//! bytes in memory; neither has a second copy of any rule.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod answer;
pub mod classify;
pub mod image;
pub mod judge;
pub mod lookup;
pub mod parse;
pub mod scope;
pub mod tags;
pub mod verdict;
