//! Bytes of IP packets: building UDP ones, reading the few fields that arrivals are counted by.

use std::net::IpAddr;

/// Address, protocol, and source port or ICMP identifier.
pub type ArrivalKey = (IpAddr, u8, u16);

/// An IP packet with an empty UDP datagram in it, checksums filled in. Both addresses are of one
/// family; otherwise an empty packet comes back.
pub fn udp(source: IpAddr, from: u16, destination: IpAddr, to: u16) -> Vec<u8> {
    const UDP: u16 = 8;
    let (header, sum) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = vec![0x45, 0, 0, (20 + UDP) as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
            ip.extend(source.octets());
            ip.extend(destination.octets());
            let check = !fold(sum(&ip));
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            let pseudo = sum(&ip[12..20]);
            (ip, pseudo)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, UDP as u8, 17, 64];
            ip.extend(source.octets());
            ip.extend(destination.octets());
            let pseudo = sum(&ip[8..40]);
            (ip, pseudo)
        }
        _ => return Vec::new(),
    };
    let total = sum + 17 + u32::from(UDP) + u32::from(from) + u32::from(to) + u32::from(UDP);
    let check = match !fold(total) {
        // Zero means "no checksum" on the wire.
        0 => 0xffff,
        check => check,
    };
    let mut packet = header;
    for word in [from, to, UDP, check] {
        packet.extend(word.to_be_bytes());
    }
    packet
}

/// Source address and key of a packet without link-layer header; `None` for what is not counted.
pub fn arrival(packet: &[u8]) -> Option<(IpAddr, ArrivalKey)> {
    let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) =
        match packet.first()? >> 4 {
            4 => {
                let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
                let length = usize::from(packet.first()? & 15) * 4;
                let rest = packet.get(length..)?;
                (address(12)?.into(), address(16)?.into(), *packet.get(9)?, rest)
            }
            6 => {
                let address = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
                (address(8)?.into(), address(24)?.into(), *packet.get(6)?, packet.get(40..)?)
            }
            _ => return None,
        };
    let word = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let number = match (protocol, *rest.first()?) {
        (6 | 17, _) => word(0)?,
        // Echo requests alone: neighbour discovery is no arrival.
        (1, 8) | (58, 128) => word(4)?,
        _ => return None,
    };
    Some((source, (destination, protocol, number)))
}

/// An echo request; the kernel fills in the checksum of ICMPv6.
pub fn echo_request(v6: bool, identifier: u16) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = if v6 { 128 } else { 8 };
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&1u16.to_be_bytes());
    if !v6 {
        let check = !fold(sum(&message));
        message[2..4].copy_from_slice(&check.to_be_bytes());
    }
    message
}

/// Sum of big-endian words; of even length.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_were_built() {
        for (source, destination) in [("10.9.0.1", "8.8.8.8"), ("fd09::1", "2406:da14::1")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let packet = udp(source, 30_001, destination, 5302);
            assert_eq!(arrival(&packet), Some((source, (destination, 17, 30_001))));
            for length in 0..packet.len() - 6 {
                assert_eq!(arrival(&packet[..length]), None, "cut at {length}");
            }
        }
    }

    #[test]
    fn checksums_verify() {
        let packet = udp("10.9.0.1".parse().unwrap(), 1, "8.8.8.8".parse().unwrap(), 2);
        assert_eq!(fold(sum(&packet[..20])), 0xffff);
        let pseudo = sum(&packet[12..20]) + 17 + 8;
        assert_eq!(fold(pseudo + sum(&packet[20..])), 0xffff);
        assert_eq!(fold(sum(&echo_request(false, 77))), 0xffff);
    }

    #[test]
    fn mixed_families_build_nothing() {
        assert!(udp("::1".parse().unwrap(), 1, "8.8.8.8".parse().unwrap(), 2).is_empty());
    }
}
