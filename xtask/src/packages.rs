//! The one list of distribution packages that the project uses, each with its reason.
//!
//! The compiler is not here: where it comes from depends on the machine, see `setup/compiler.rs`.

/// What a package is needed for. `setup` and `test` install all; `demo` and `bench` their own, and
/// `bench` what `demo` needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Demo,
    Bench,
    Test,
}

/// A package by its Debian name.
pub(crate) struct Package {
    pub name: &'static str,
    /// A program of the package. Where it is found, from whatever source, nothing is installed.
    pub program: Option<&'static str>,
    pub needed_by: Use,
    /// Where it cannot be had, what needs it says so and the rest goes on.
    pub optional: bool,
    pub why: &'static str,
}

pub(crate) const PACKAGES: &[Package] = &[
    Package {
        name: "iproute2",
        program: Some("ip"),
        needed_by: Use::Demo,
        optional: false,
        why: "network namespaces, links and routes of the demo and the tests",
    },
    Package {
        name: "iputils-ping",
        program: Some("ping"),
        needed_by: Use::Test,
        optional: false,
        why: "the documents' examples, which are tests",
    },
    Package {
        name: "jq",
        program: Some("jq"),
        needed_by: Use::Test,
        optional: false,
        why: "the documents' examples, which are tests",
    },
    Package {
        name: "ethtool",
        program: Some("ethtool"),
        needed_by: Use::Test,
        optional: false,
        why: "a test switches an interface's checksum offload off",
    },
    Package {
        name: "nftables",
        program: Some("nft"),
        needed_by: Use::Bench,
        optional: true,
        why: "the benchmark measures it beside the agent",
    },
    Package {
        name: "ipset",
        program: Some("ipset"),
        needed_by: Use::Bench,
        optional: true,
        why: "the benchmark measures it beside the agent",
    },
    Package {
        name: "iptables",
        program: Some("iptables-legacy"),
        needed_by: Use::Bench,
        optional: true,
        why: "the benchmark measures it, with ipset, beside the agent",
    },
];

/// The packages that a use needs. The tests run the demo and a short benchmark too.
pub(crate) fn needed(by: Use) -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(move |package| package.needed_by <= by)
}
