//! The file format of the embedded table (`data/world.bin`): written by `cargo xtask dataset`, read in place.
//!
//! Holds intervals, what the sources say of them, and the ASN register. Operators and control are not in
//! it: the catalog adds them when the table is loaded, so that a catalog edit needs no new table.
//!
//! Layout, numbers little endian: magic, the lengths of the six sections (`u32` each), then the sections:
//! sources (JSON), IPv4 table, IPv6 table, records, register, names. A record is the ASN in LEB128 and a
//! `u16`: country in the low 10 bits, agreeing sources in the next 3, index of the locating source in the
//! upper 3. A register entry is the distance to the previous ASN in LEB128 and a `u16` country. Names are
//! one DEFLATE stream of length bytes and texts, one for each register entry, unpacked at first use.

use super::{
    model::{Country, SourceInfo},
    table::{Key, Table, TableError, read_leb, write_leb},
};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use std::{
    borrow::Cow,
    io::{Read, Write},
    sync::OnceLock,
};

const MAGIC: &[u8; 8] = b"SOVDATA1";
const SECTIONS: usize = 6;
/// Unpacked names beyond this are damage.
const MAX_NAMES: u64 = 16 << 20;
/// Longest name kept, in bytes.
pub const MAX_NAME: usize = 63;

/// What the sources say of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    pub asn: u32,
    pub location: Option<Country>,
    /// How many sources agree on the location, at most 7.
    pub sources: u8,
    /// Index into the sources, at most 7.
    pub source: u8,
}

/// The ASN register: registration countries and names, by ascending ASN.
#[derive(Clone, Debug, Default)]
pub struct Register {
    entries: Vec<(u32, Option<Country>)>,
    packed_names: &'static [u8],
    names: OnceLock<Names>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    /// Position of the length byte, for each entry of the register.
    offsets: Vec<u32>,
}

/// A decoded file.
#[derive(Clone, Debug)]
pub struct World {
    pub sources: Vec<SourceInfo>,
    pub v4: Table<u32>,
    pub v6: Table<u128>,
    pub records: Vec<Record>,
    pub register: Register,
}

/// Why bytes are no such file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

/// Writes a file. Ids of the tables are indexes into `records`; `register` ascends by ASN.
pub fn encode(
    sources: &[SourceInfo],
    v4: &Table<u32>,
    v6: &Table<u128>,
    records: &[Record],
    register: &[(u32, Option<Country>, String)],
) -> Result<Vec<u8>, Damaged> {
    let json = serde_json::to_vec(sources).map_err(|_| Damaged("sources"))?;
    let mut packed = Vec::new();
    for record in records {
        if record.sources > 7 || record.source > 7 {
            return Err(Damaged("more than 7 sources"));
        }
        write_leb(&mut packed, u128::from(record.asn));
        let word = country_code(record.location)
            | u16::from(record.sources) << 10
            | u16::from(record.source) << 13;
        packed.extend_from_slice(&word.to_le_bytes());
    }
    let (mut listed, mut names) = (Vec::new(), Vec::new());
    let mut previous = 0;
    for (asn, registered, name) in register {
        let step = asn.checked_sub(previous).ok_or(Damaged("the register is out of order"))?;
        write_leb(&mut listed, u128::from(step));
        previous = *asn;
        listed.extend_from_slice(&country_code(*registered).to_le_bytes());
        let name = &name[..name.floor_char_boundary(MAX_NAME)];
        names.push(u8::try_from(name.len()).map_err(|_| Damaged("a name is too long"))?);
        names.extend_from_slice(name.as_bytes());
    }
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
    let written = deflate.write_all(&names).and_then(|()| deflate.finish());
    let names = written.map_err(|_| Damaged("names cannot be packed"))?;
    let sections = [&json, v4.as_bytes(), v6.as_bytes(), &packed, &listed, &names];
    let mut out = MAGIC.to_vec();
    for section in sections {
        let length = u32::try_from(section.len()).map_err(|_| Damaged("a section is too long"))?;
        out.extend_from_slice(&length.to_le_bytes());
    }
    sections.into_iter().for_each(|section| out.extend_from_slice(section));
    Ok(out)
}

/// Reads a file in place. Checks the frame and every record; table blocks are checked as they are read.
pub fn decode(bytes: &'static [u8]) -> Result<World, Damaged> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Damaged("not a table of this version"))?;
    let mut rest = body.get(SECTIONS * 4..).ok_or(Damaged("truncated"))?;
    let mut sections = [&[][..]; SECTIONS];
    for (index, section) in sections.iter_mut().enumerate() {
        let length = u32::read(&body[index * 4..]).ok_or(Damaged("truncated"))?;
        (*section, rest) = rest.split_at_checked(length as usize).ok_or(Damaged("truncated"))?;
    }
    if !rest.is_empty() {
        return Err(Damaged("bytes behind the end"));
    }
    let [json, v4, v6, packed, listed, names] = sections;
    let damaged_table = |_: TableError| Damaged("a table is damaged");
    Ok(World {
        sources: serde_json::from_slice(json).map_err(|_| Damaged("sources are not readable"))?,
        v4: Table::from_bytes(Cow::Borrowed(v4)).map_err(damaged_table)?,
        v6: Table::from_bytes(Cow::Borrowed(v6)).map_err(damaged_table)?,
        records: decode_records(packed)?,
        register: Register::decode(listed, names)?,
    })
}

fn decode_records(bytes: &[u8]) -> Result<Vec<Record>, Damaged> {
    // A record takes at least three bytes.
    let mut records = Vec::with_capacity(bytes.len() / 4);
    let mut at = 0;
    while at < bytes.len() {
        let asn = read_leb(bytes, &mut at).ok_or(Damaged("a record is cut off"))?;
        let word = read_u16(bytes, &mut at).ok_or(Damaged("a record is cut off"))?;
        records.push(Record {
            asn,
            location: country_from_code(word & 0x3ff),
            sources: (word >> 10 & 7) as u8,
            source: (word >> 13) as u8,
        });
    }
    Ok(records)
}

impl Register {
    fn decode(bytes: &[u8], packed_names: &'static [u8]) -> Result<Self, Damaged> {
        let cut = Damaged("the register is cut off");
        // An entry takes at least three bytes.
        let mut entries = Vec::with_capacity(bytes.len() / 3);
        let (mut at, mut asn) = (0, 0u32);
        while at < bytes.len() {
            let step: u32 = read_leb(bytes, &mut at).ok_or(cut.clone())?;
            asn = asn.checked_add(step).ok_or(cut.clone())?;
            let code = read_u16(bytes, &mut at).ok_or(cut.clone())?;
            entries.push((asn, country_from_code(code)));
        }
        Ok(Self { entries, packed_names, names: OnceLock::new() })
    }

    pub fn registered(&self, asn: u32) -> Option<Country> {
        self.entries[self.position(asn)?].1
    }

    /// As registered; `None` where none is known.
    pub fn name(&self, asn: u32) -> Option<&str> {
        let position = self.position(asn)?;
        let names = self.names.get_or_init(|| Names::unpack(self.packed_names));
        let at = *names.offsets.get(position)? as usize;
        let (length, rest) = names.bytes.get(at..)?.split_first()?;
        let name = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
        (!name.is_empty()).then_some(name)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, asn: u32) -> Option<usize> {
        self.entries.binary_search_by_key(&asn, |entry| entry.0).ok()
    }
}

impl Names {
    /// A damaged stream gives the names before the damage.
    fn unpack(packed: &[u8]) -> Self {
        let mut bytes = Vec::new();
        // Names are for people only: without them everything else still holds.
        let _ = DeflateDecoder::new(packed).take(MAX_NAMES).read_to_end(&mut bytes);
        let (mut offsets, mut at) = (Vec::new(), 0);
        while let Some(length) = bytes.get(at as usize) {
            offsets.push(at);
            at += 1 + u32::from(*length);
        }
        Self { bytes, offsets }
    }
}

fn read_u16(bytes: &[u8], at: &mut usize) -> Option<u16> {
    let word = bytes.get(*at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))?;
    *at += 2;
    Some(word)
}

/// 0 = none, else 1 + 26 * first letter + second letter: at most 676.
fn country_code(country: Option<Country>) -> u16 {
    let Some([first, second]) = country.map(Country::to_bytes) else { return 0 };
    1 + 26 * u16::from(first - b'A') + u16::from(second - b'A')
}

fn country_from_code(code: u16) -> Option<Country> {
    let number = code.checked_sub(1).filter(|number| *number < 26 * 26)?;
    // Both below 26 by construction.
    Country::from_bytes([b'A' + (number / 26) as u8, b'A' + (number % 26) as u8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let source = SourceInfo {
            id: "w".into(),
            title: "W".into(),
            built: 1,
            expires: Some(2),
            licence: "CC0-1.0".into(),
            sha256: "00".into(),
            records: 3,
        };
        let v4 = Table::pack(&[(0u32, 0), (9, 1)]).unwrap();
        let v6 = Table::pack(&[(0u128, 0)]).unwrap();
        let records = [
            Record { asn: 0, location: None, sources: 0, source: 0 },
            Record { asn: 400_000, location: Country::new("ZZ"), sources: 7, source: 7 },
        ];
        let register =
            [(7, Country::new("AA"), "Seven, Inc".to_owned()), (400_000, None, "ü".repeat(40))];
        encode(&[source], &v4, &v6, &records, &register).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let world = decode(Box::leak(sample().into_boxed_slice())).unwrap();
        assert_eq!(world.sources[0].expires, Some(2));
        assert_eq!(world.v4.find(9).id, 1);
        let zz = Record { asn: 400_000, location: Country::new("ZZ"), sources: 7, source: 7 };
        assert_eq!(world.records[1], zz);
        assert_eq!(world.records[0].location, None);
        let register = &world.register;
        assert_eq!(
            (register.name(7), register.registered(7)),
            (Some("Seven, Inc"), Country::new("AA"))
        );
        assert_eq!(register.name(400_000), Some("ü".repeat(31).as_str()));
        assert_eq!((register.name(8), register.registered(400_000)), (None, None));
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            assert!(decode(Box::leak(bytes[..cut].to_vec().into_boxed_slice())).is_err(), "{cut}");
        }
    }

    #[test]
    fn every_country_survives() {
        for first in b'A'..=b'Z' {
            for second in b'A'..=b'Z' {
                let country = Country::from_bytes([first, second]);
                assert_eq!(country_from_code(country_code(country)), country);
            }
        }
        assert_eq!(country_from_code(677), None);
    }
}
