//! What the agent must know of a compiled policy: the names behind the numbers. Stored in the image.

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

/// Names and numbers of a compiled policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyMeta {
    pub name: String,
    /// SHA-256 of the policy source and its data, lower-case hex.
    pub hash: String,
    pub tags: Vec<TagMeta>,
    /// By tier number.
    pub tiers: Vec<TierMeta>,
    /// By id - 1.
    pub rules: Vec<RuleMeta>,
    /// Ids of the inputs that located addresses.
    pub datasets: Vec<String>,
    /// When the oldest of them was built, unix seconds.
    pub data_built: u64,
    /// Seconds after which the data count as stale.
    pub max_data_age: u64,
    /// Name of the tag of traffic that no selector matches; `None` = it passes.
    pub untagged: Option<String>,
    /// The site's own NAT64 prefixes: what is inside is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nat64: Vec<Ipv6Net>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagMeta {
    pub slot: u8,
    pub name: String,
    pub tier: String,
    pub rank: u8,
    /// `audit` or `enforce`.
    pub mode: String,
    /// `reject` or `drop`.
    pub response: String,
    pub replies: bool,
    /// What its selectors name: paths of cgroups, names of interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierMeta {
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    Allow,
    Deny,
    OperatorDeny,
    Zone,
}

impl RuleKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::OperatorDeny => "operator_deny",
            Self::Zone => "zone",
        }
    }
}

/// A rule, or a tier's use of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RuleMeta {
    /// From 1.
    pub id: u16,
    pub tier: String,
    pub kind: RuleKind,
    /// `None` for zones, operators, and where several rules share the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u32>,
    /// Line in the policy source, of the first rule where several share the id.
    pub line: usize,
    /// How many rules share the id.
    pub entries: usize,
}

impl RuleMeta {
    pub(crate) fn new(kind: RuleKind, tier: &str, line: usize) -> Self {
        Self {
            id: 0,
            tier: tier.to_owned(),
            kind,
            prefix: None,
            operator: None,
            zone: None,
            owner: None,
            ticket: None,
            reason: None,
            until: None,
            line,
            entries: 1,
        }
    }
}

impl PolicyMeta {
    /// The rule with this id; `None` for 0.
    pub fn rule(&self, id: u16) -> Option<&RuleMeta> {
        self.rules.get(usize::from(id).checked_sub(1)?)
    }

    pub fn tag(&self, name: &str) -> Option<&TagMeta> {
        self.tags.iter().find(|tag| tag.name == name)
    }

    pub fn tag_at(&self, slot: u8) -> Option<&TagMeta> {
        self.tags.iter().find(|tag| tag.slot == slot)
    }

    /// Number of a tier.
    pub fn tier_index(&self, name: &str) -> Option<usize> {
        self.tiers.iter().position(|tier| tier.name == name)
    }
}
