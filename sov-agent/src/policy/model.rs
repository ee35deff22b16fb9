//! A policy as it was written: every value with its place, nothing resolved, nothing defaulted silently.

use super::{
    diagnostic::Span,
    image::{Mode, PortRange, Response},
};
use crate::data::model::{Control, Location};
use ipnet::{IpNet, Ipv6Net};
use std::net::IpAddr;

/// A value and the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// `"*"`, or exactly the listed values. An empty list matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set<T> {
    Any,
    Of(Vec<Spanned<T>>),
}

impl<T> Set<T> {
    pub fn items(&self) -> &[Spanned<T>] {
        match self {
            Self::Any => &[],
            Self::Of(items) => items,
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Of(items) if items.is_empty())
    }
}

impl<T: PartialEq> Set<T> {
    pub fn contains(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Of(items) => items.iter().any(|item| item.value == *value),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub name: String,
    pub defaults: Defaults,
    /// The site's NAT64 prefixes, each a /96.
    pub nat64: Vec<Spanned<Ipv6Net>>,
    pub zones: Vec<Zone>,
    pub tiers: Vec<Tier>,
    pub tags: Vec<Tag>,
    pub tests: Vec<Test>,
}

#[derive(Clone, Debug)]
pub struct Defaults {
    pub mode: Mode,
    pub response: Response,
    /// Name of the tag of traffic that no selector matches; `None` = it passes.
    pub untagged: Option<Spanned<String>>,
    /// Seconds.
    pub max_data_age: Spanned<u64>,
}

/// Older data make no new image, unless the policy says otherwise.
pub const DEFAULT_MAX_DATA_AGE: u64 = 45 * 24 * 60 * 60;

impl Default for Defaults {
    fn default() -> Self {
        Self {
            mode: Mode::Audit,
            response: Response::Reject,
            untagged: None,
            max_data_age: Spanned::new(DEFAULT_MAX_DATA_AGE, 0..0),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Zone {
    pub name: Spanned<String>,
    pub prefixes: Vec<Spanned<IpNet>>,
}

#[derive(Clone, Debug)]
pub struct Tier {
    pub name: Spanned<String>,
    pub location: Set<Location>,
    pub control: Set<Control>,
    pub min_sources: Spanned<u8>,
    /// `control` must come from the catalog, not from the registration.
    pub catalog_only: bool,
    pub zones: Vec<Spanned<String>>,
    pub operators: Set<String>,
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
}

/// One entry of `allow` or `deny`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The whole entry.
    pub span: Span,
    pub target: Spanned<Target>,
    /// `None` = any protocol and port.
    pub ports: Option<Vec<PortRange>>,
    /// Unix seconds.
    pub until: Option<Spanned<u32>>,
    pub owner: Option<String>,
    pub ticket: Option<String>,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Prefix(IpNet),
    /// Catalog id; only in `deny`.
    Operator(String),
}

#[derive(Clone, Debug)]
pub struct Tag {
    pub name: Spanned<String>,
    pub tier: Spanned<String>,
    pub rank: Spanned<u8>,
    /// False: the rank is missing or wrong, and 0 stands in for it.
    pub has_rank: bool,
    pub mode: Option<Mode>,
    pub response: Option<Response>,
    /// `replies = "allow"`.
    pub replies: Spanned<bool>,
    pub select: Vec<Spanned<Selector>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Path below the cgroup v2 root, with a leading slash.
    Cgroup(String),
    Mark {
        value: u32,
        mask: u32,
    },
    Source(IpNet),
    /// 0 to 63.
    Dscp(u8),
    /// Id of IEEE 802.1Q, 1 to 4094.
    Vlan(u16),
    Interface(String),
    Uid(u32),
}

#[derive(Clone, Debug)]
pub struct Test {
    pub tag: Spanned<String>,
    pub reach: Vec<Spanned<Endpoint>>,
    pub refuse: Vec<Spanned<Endpoint>>,
}

/// `ADDR`, `ADDR:PORT/tcp`, `[V6]:PORT/udp` or `ADDR/icmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    /// IP protocol number; `None` = whatever the protocol.
    pub protocol: Option<u8>,
    /// Host byte order; `None` where no port was given.
    pub port: Option<u16>,
}
