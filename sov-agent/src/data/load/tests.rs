//! Site folders: what overrides what, and what is refused.

use super::*;
use crate::data::mmdb::writer::{Fields, Options, flat, nested, origin, write};
use tempfile::TempDir;

const DAY: u64 = 24 * 60 * 60;
/// When the test MMDBs were built, and the days on which they are used.
const BUILT: u64 = 1_795_000_000;
const HEAD: &str = "prefix,country,asn\n";
const CATALOG_HEAD: &str = "id,name,asn,group,control,registered,anycast,certifications,evidence\n";

struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        let built = std::time::UNIX_EPOCH + std::time::Duration::from_secs(BUILT);
        fs::File::options().append(true).open(path).unwrap().set_modified(built).unwrap();
        self
    }

    fn mmdb(self, name: &str, rows: &[(&str, Fields)]) -> Self {
        self.with(name, write(rows, Options::default()))
    }

    fn load(&self) -> Dataset {
        Dataset::load(self.0.path(), BUILT + DAY, Some(45 * DAY)).unwrap()
    }

    fn refusal(&self, now: u64, max_age: Option<u64>) -> String {
        match Dataset::load(self.0.path(), now, max_age).unwrap_err() {
            LoadError::Files(problems) => problems.to_string(),
            other => panic!("{other}"),
        }
    }
}

/// `location/sources operator control/basis source`.
fn told(data: &Dataset, address: &str) -> String {
    let a = data.lookup(address.parse().unwrap()).attributes;
    format!(
        "{}/{} {} {}/{} {}",
        a.location,
        a.sources,
        a.operator.as_deref().unwrap_or("-"),
        a.control,
        a.control_basis.as_str(),
        data.sources()[usize::from(a.dataset)].id
    )
}

#[test]
fn an_empty_folder_is_the_embedded_data() {
    let data = Site::new().with("README.md", "x").with(".hidden", "x").load();
    let embedded = Dataset::embedded().unwrap();
    assert_eq!(data.interval_counts(), embedded.interval_counts());
    assert_eq!((data.sources(), data.built()), (embedded.sources(), embedded.built()));
}

#[test]
fn databases_vote_and_name() {
    let data = Site::new()
        .mmdb("a.mmdb", &[("54.64.0.0/24", flat("JP")), ("54.64.1.0/24", flat("TW"))])
        .mmdb("b.mmdb", &[("54.64.0.0/23", nested("TW")), ("2001:200::/48", nested("JP"))])
        .mmdb("c.mmdb", &[("54.64.2.0/24", origin(9370, "SAKURA of the site"))])
        .load();
    // Agreed, then moved; moved, then agreed.
    assert_eq!(told(&data, "54.64.0.1"), "TW/1 aws US/catalog site-b");
    assert_eq!(told(&data, "54.64.1.1"), "TW/2 aws US/catalog site-a");
    assert_eq!(told(&data, "54.64.2.1"), "JP/2 sakura JP/catalog jp-snapshot-2026-11-23");
    assert_eq!(told(&data, "54.64.3.1"), "JP/2 aws US/catalog jp-snapshot-2026-11-23");
    assert_eq!(told(&data, "2001:200::1"), "JP/3 wide JP/catalog jp-snapshot-2026-11-23");
    assert_eq!(told(&data, "2001:200:1::1"), "JP/2 wide JP/catalog jp-snapshot-2026-11-23");
    assert_eq!(data.asn_name(9370), Some("SAKURA of the site"));
    assert_eq!(data.asn_name(15169), Some("Google LLC"));
}

#[test]
fn lists_state_and_catalogs_reassign() {
    let data = Site::new()
        .mmdb("zz.mmdb", &[("54.64.0.0/24", flat("TW"))])
        .with("z.csv", format!("{HEAD}54.64.0.0/24,KR,64500\n10.0.0.0/8,JP,0\n"))
        .with(
            "operators.csv",
            format!("{CATALOG_HEAD}own,Own,64500,,contested,JP,no,,\nours,Ours,2500,,FR,,no,,\n"),
        )
        .load();
    assert_eq!(told(&data, "54.64.0.1"), "KR/2 own contested/catalog site-z");
    assert_eq!(told(&data, "10.1.2.3"), "JP/2 - unknown/none site-z");
    assert_eq!(told(&data, "2001:200::1"), "JP/2 ours FR/catalog jp-snapshot-2026-11-23");
    assert_eq!(data.lookup("10.1.2.3".parse().unwrap()).prefix.to_string(), "10.0.0.0/8");
}

#[test]
fn fresh_databases_of_both_kinds_set_the_age() {
    let country = [("54.64.0.0/24", flat("JP"))];
    let embedded = Dataset::embedded().unwrap().built();
    assert_eq!(Site::new().mmdb("a.mmdb", &country).load().built(), BUILT.min(embedded));
    let newer = Options { built: BUILT as u32 + 100 * DAY as u32, ..Options::default() };
    let site = Site::new()
        .with("a.mmdb", write(&country, newer))
        .with("b.mmdb", write(&[("54.64.0.0/24", origin(1, "x"))], newer));
    let data = Dataset::load(site.0.path(), BUILT + 101 * DAY, Some(45 * DAY)).unwrap();
    assert_eq!(data.built(), BUILT + 100 * DAY);
}

#[test]
fn stale_and_future_files_are_refused_unless_allowed() {
    let site = Site::new().mmdb("a.mmdb", &[("54.64.0.0/24", flat("JP"))]);
    let found = site.refusal(BUILT + 46 * DAY, Some(45 * DAY));
    assert!(
        found.contains("a.mmdb: 46 days old, more than the 45 that are allowed; get a newer one"),
        "{found}"
    );
    assert!(Dataset::load(site.0.path(), BUILT + 46 * DAY, None).is_ok());
    assert!(site.refusal(BUILT - 2 * DAY, None).contains("built in the future"));
    let list = Site::new().with("z.csv", HEAD);
    assert!(list.refusal(BUILT + 46 * DAY, Some(45 * DAY)).contains("review it"));
}

#[test]
fn one_fault_refuses_the_folder_and_all_are_told() {
    let good = write(&[("54.64.0.0/24", flat("JP"))], Options::default());
    let site = Site::new()
        .with("a.mmdb", &good[..good.len() - 40])
        .with("b.csv", format!("{HEAD}10.0.0.1/8,JP,0\n"))
        .with("operators.csv", "id\n")
        .mmdb("c.mmdb", &[("54.64.0.0/24", flat("JP"))]);
    let found = site.refusal(BUILT, None);
    for part in [
        "a.mmdb: no readable MMDB",
        "b.csv:2:1: prefix 10.0.0.1/8 has host bits set; write 10.0.0.0/8",
        "operators.csv:1:1: the first row is not the expected header",
    ] {
        assert!(found.contains(part), "{found}");
    }
    assert_eq!(found.lines().count(), 3);
}

#[test]
fn what_is_no_data_folder_is_refused() {
    let packed = Site::new().with("geo.mmdb.gz", "x");
    assert!(packed.refusal(0, None).contains("holds `geo.mmdb.gz`"));
    let missing = Dataset::load(Path::new("/nonexistent/data"), 0, None).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/data: cannot be read"));
    let pipe = Site::new();
    let path = pipe.0.path().join("p.mmdb");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    assert!(pipe.refusal(0, None).contains("p.mmdb: no regular file"));
}
