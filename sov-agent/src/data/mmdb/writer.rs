//! Writes small MMDB files for tests, right ones and wrong ones.

use ipnet::IpNet;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Number(u32),
    Short(u16),
    Long(u64),
    Map(Fields),
}

pub(crate) type Fields = Vec<(&'static str, Value)>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) record_size: u16,
    pub(crate) version: u16,
    /// Points ::ffff:0:0/96 and 2002::/16 to the IPv4 subtree, as real files do.
    pub(crate) alias: bool,
    pub(crate) built: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { record_size: 24, version: 6, alias: false, built: 1_795_000_000 }
    }
}

pub(crate) fn flat(code: &str) -> Fields {
    vec![("country_code", Value::Text(code.into()))]
}

pub(crate) fn nested(code: &str) -> Fields {
    let inner = vec![("iso_code", Value::Text(code.into())), ("geoname_id", Value::Number(7))];
    vec![("country", Value::Map(inner)), ("extra", Value::Map(flat("XX")))]
}

pub(crate) fn origin(asn: u32, name: &str) -> Fields {
    vec![
        ("autonomous_system_number", Value::Number(asn)),
        ("autonomous_system_organization", Value::Text(name.into())),
    ]
}

/// Prefixes must not overlap.
pub(crate) fn write(rows: &[(&str, Fields)], options: Options) -> Vec<u8> {
    #[derive(Clone, Copy)]
    enum Slot {
        Empty,
        Node(usize),
        Data(usize),
    }
    let mut nodes = vec![[Slot::Empty; 2]];
    let mut data = Vec::new();
    let mut insert = |bits: u128, length: u8, target: Option<Slot>| {
        let mut node = 0;
        for depth in 0..length {
            let bit = (bits >> (127 - depth) & 1) as usize;
            if let (true, Some(target)) = (depth + 1 == length, target) {
                nodes[node][bit] = target;
            } else if let Slot::Node(next) = nodes[node][bit] {
                node = next;
            } else {
                nodes.push([Slot::Empty; 2]);
                let next = nodes.len() - 1;
                nodes[node][bit] = Slot::Node(next);
                node = next;
            }
        }
        node
    };
    for (prefix, fields) in rows {
        let (bits, length) = match prefix.parse().unwrap() {
            IpNet::V4(net) if options.version == 6 => {
                (u128::from(net.addr().to_bits()), 96 + net.prefix_len())
            }
            IpNet::V4(net) => (u128::from(net.addr().to_bits()) << 96, net.prefix_len()),
            IpNet::V6(net) => (net.addr().to_bits(), net.prefix_len()),
        };
        insert(bits, length, Some(Slot::Data(data.len())));
        encode(&Value::Map(fields.clone()), &mut data);
    }
    if options.alias {
        // The node of ::/96: the path of zeros, 96 deep.
        let start = insert(0, 96, None);
        insert(0xffff << 32, 96, Some(Slot::Node(start)));
        insert(0x2002 << 112, 16, Some(Slot::Node(start)));
    }
    let count = nodes.len();
    let number = |slot: &Slot| match slot {
        Slot::Empty => count as u32,
        Slot::Node(next) => *next as u32,
        Slot::Data(offset) => (count + 16 + offset) as u32,
    };
    let nodes: Vec<_> = nodes.iter().map(|[left, right]| [number(left), number(right)]).collect();
    write_raw(count as u32, &nodes, &data, options)
}

/// Whatever is given, with metadata that claim `node_count`.
pub(crate) fn write_raw(
    node_count: u32,
    nodes: &[[u32; 2]],
    data: &[u8],
    options: Options,
) -> Vec<u8> {
    let mut out = Vec::new();
    for [left, right] in nodes {
        let (l, r) = (left.to_be_bytes(), right.to_be_bytes());
        match options.record_size {
            24 => out.extend([l[1], l[2], l[3], r[1], r[2], r[3]]),
            28 => out.extend([l[1], l[2], l[3], l[0] << 4 | r[0] & 15, r[1], r[2], r[3]]),
            _ => out.extend(l.into_iter().chain(r)),
        }
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = Value::Map(vec![
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(options.built.into())),
        ("database_type", Value::Text("Test".into())),
        ("description", Value::Map(Vec::new())),
        ("ip_version", Value::Short(options.version)),
        ("languages", Value::Text(String::new())),
        ("node_count", Value::Number(node_count)),
        ("record_size", Value::Short(options.record_size)),
    ]);
    encode(&metadata, &mut out);
    out
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        // Stands for the one array that files have: the empty list of languages (extended type 11).
        Value::Text(text) if text.is_empty() => out.extend([0x00, 0x04]),
        Value::Text(text) => {
            match text.len() {
                short @ 0..29 => out.push(0x40 | short as u8),
                long => out.extend([0x40 | 29, (long - 29) as u8]),
            }
            out.extend(text.as_bytes());
        }
        Value::Number(number) => {
            out.push(0xc4);
            out.extend(number.to_be_bytes());
        }
        Value::Short(number) => {
            out.push(0xa2);
            out.extend(number.to_be_bytes());
        }
        // Extended type 9.
        Value::Long(number) => {
            out.extend([0x08, 0x02]);
            out.extend(number.to_be_bytes());
        }
        Value::Map(fields) => {
            assert!(fields.len() < 29);
            out.push(0xe0 | fields.len() as u8);
            for (key, value) in fields {
                encode(&Value::Text((*key).into()), out);
                encode(value, out);
            }
        }
    }
}
