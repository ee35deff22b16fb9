//! The attributes of a destination and the table that maps every address to them.
//!
//! Location, registration and control are three attributes and are never merged into one.

use std::fmt;

/// ISO 3166-1 alpha-2 code, upper case ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// `None` unless `code` is two ASCII letters; lower case is accepted.
    pub fn new(code: &str) -> Option<Self> {
        match code.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Some(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => None,
        }
    }

    pub fn as_str(&self) -> &str {
        // Both bytes are ASCII letters by construction.
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl Country {
    /// The two upper-case letters.
    pub fn to_bytes(self) -> [u8; 2] {
        self.0
    }

    /// `None` unless both bytes are ASCII letters.
    pub fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        std::str::from_utf8(&bytes).ok().and_then(Self::new)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a destination is. Displayed as the ISO code, `anycast` or `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    Country(Country),
    /// Announced from many places at once: not locatable, judged by its operator only.
    Anycast,
    Unknown,
}

/// Whose law reaches the operator's controlling parent. Displayed as the ISO code, `contested` or `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Control {
    Country(Country),
    Contested,
    Unknown,
}

/// What `control` rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ControlBasis {
    /// The operator catalog names the controlling parent.
    Catalog,
    /// The catalog does not know the operator: the ASN's registration country stands in.
    Registered,
    /// No ASN, or an ASN whose registration is unknown.
    None,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Country(c) => c.fmt(f),
            Self::Anycast => f.write_str("anycast"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Country(c) => c.fmt(f),
            Self::Contested => f.write_str("contested"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl ControlBasis {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Registered => "registered",
            Self::None => "none",
        }
    }
}

/// Index of an [`Attributes`] value in its [`Dataset`](super::dataset::Dataset).
pub type AttrId = u32;

/// Everything known about a set of destinations, except the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub location: Location,
    /// How many independent sources agree on `location`.
    pub sources: u8,
    /// Origin ASN; 0 = not announced.
    pub asn: u32,
    /// Catalog id (`sakura`), `None` where the catalog does not know the operator.
    pub operator: Option<Box<str>>,
    pub control: Control,
    pub control_basis: ControlBasis,
    /// Country of the ASN's registration.
    pub registered: Option<Country>,
    /// For example `aws:ap-northeast-1`.
    pub provider_region: Option<Box<str>>,
    /// Index into [`Dataset::sources`](super::dataset::Dataset::sources): the dataset that located this address.
    pub dataset: u16,
}

/// One input of a dataset: what it is, how old it is, and exactly which bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceInfo {
    /// For example `jp-snapshot-2026-11-23`; recorded with every address that it located.
    pub id: String,
    pub title: String,
    /// When it was built, unix seconds.
    pub built: u64,
    /// When it should no longer be relied on, unix seconds.
    pub expires: Option<u64>,
    pub licence: String,
    /// Of the input's bytes, lower-case hex.
    pub sha256: String,
    /// Rows, prefixes or intervals, as the input counts.
    pub records: u64,
}

impl Attributes {
    /// Nothing is known: the value for space that no source covers.
    pub const UNKNOWN: Self = Self {
        location: Location::Unknown,
        sources: 0,
        asn: 0,
        operator: None,
        control: Control::Unknown,
        control_basis: ControlBasis::None,
        registered: None,
        provider_region: None,
        dataset: 0,
    };
}
