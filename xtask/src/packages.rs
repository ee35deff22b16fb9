//! The one list of distribution packages that the project uses, each with its reason.
//!
//! The compiler is not here: where it comes from depends on the machine, see `setup/compiler.rs`.

/// What a package is needed for. `setup` and `test` install all, `demo` only its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Demo,
    Test,
}

/// A package by its Debian name.
pub(crate) struct Package {
    pub name: &'static str,
    /// A program of the package. Where it is found, from whatever source, nothing is installed.
    pub program: Option<&'static str>,
    pub needed_by: Use,
    pub why: &'static str,
}

pub(crate) const PACKAGES: &[Package] = &[
    Package {
        name: "iproute2",
        program: Some("ip"),
        needed_by: Use::Demo,
        why: "network namespaces, links and routes of the demo and the tests",
    },
    Package {
        name: "iputils-ping",
        program: Some("ping"),
        needed_by: Use::Test,
        why: "the documents' examples, which are tests",
    },
    Package {
        name: "jq",
        program: Some("jq"),
        needed_by: Use::Test,
        why: "the documents' examples, which are tests",
    },
];

/// The packages that a use needs. The tests run the demo too.
pub(crate) fn needed(by: Use) -> impl Iterator<Item = &'static Package> {
    PACKAGES.iter().filter(move |package| by == Use::Test || package.needed_by == by)
}
