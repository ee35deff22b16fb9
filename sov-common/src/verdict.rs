//! Verdicts, reasons and scopes: the words that the kernel, the records and the commands share.
//!
//! Numbers cross the kernel boundary and are stored in images: never renumber, only append.

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    Allow = 1,
    Block = 2,
    /// Audit mode: a block that was recorded and passed.
    WouldBlock = 3,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a packet got its verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// The word used in policies, records and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// `None` for a number that no reason has.
            pub const fn from_u8(number: u8) -> Option<Self> {
                match number { $($number => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Address space that the site defines and the tier names.
    Zone = 1, "zone";
    /// An `allow` rule that has an `until`.
    Exception = 2, "exception";
    AllowRule = 3, "allow_rule";
    /// Location, control, sources and operator are all in the tier's matrix.
    TierMatch = 4, "tier_match";
    /// Answer to a connection that the other side opened, and the tag has `replies = "allow"`.
    Reply = 5, "reply";
    ForeignLocation = 10, "foreign_location";
    /// Located where the tier allows, controlled from elsewhere.
    ForeignControl = 11, "foreign_control";
    ContestedControl = 12, "contested_control";
    /// The operator is unknown, not in the tier's list, or known by registration only where the tier wants the catalog.
    UnlistedOperator = 13, "unlisted_operator";
    /// Anycast, unknown location, or fewer agreeing sources than the tier wants.
    Unlocatable = 14, "unlocatable";
    /// No origin ASN.
    Unannounced = 15, "unannounced";
    DenyRule = 20, "deny_rule";
    /// The address kind alone decides (loopback passes, private space outside every zone does not).
    Scope = 21, "scope";
    Tunnel = 22, "tunnel";
    Malformed = 23, "malformed";
    /// A rule names this address, but not this port or protocol.
    Port = 24, "port";
    StaleData = 25, "stale_data";
    NoPolicy = 26, "no_policy";
}

impl Verdict {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::WouldBlock => "would_block",
        }
    }

    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Allow),
            2 => Some(Self::Block),
            3 => Some(Self::WouldBlock),
            _ => None,
        }
    }
}

/// Address kind, decided before any data is asked. RFC 6890 and the IANA special-purpose registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    Loopback = 1,
    Private = 2,
    Cgnat = 3,
    LinkLocal = 4,
    Multicast = 5,
    Documentation = 6,
    Benchmark = 7,
    Reserved = 8,
    Global = 9,
}

impl Scope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Cgnat => "cgnat",
            Self::LinkLocal => "link_local",
            Self::Multicast => "multicast",
            Self::Documentation => "documentation",
            Self::Benchmark => "benchmark",
            Self::Reserved => "reserved",
            Self::Global => "global",
        }
    }
}
