//! The firewalls beside the agent, in the cheapest configuration that gives the same verdicts: sets of
//! what the tag may reach, one rule per family, no log.

use std::{fmt::Write as _, fs, io::Write as _, process::Stdio};

use sov_tests::netns::Netns;

use crate::tables::{MARK, Prefix, Table, text_of, width};

/// Where nftables looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// `inet`, output: packets of local sockets.
    Output,
    /// `netdev`, egress: everything that leaves the interface.
    Egress,
    /// `netdev`, ingress: everything that arrives at it.
    Ingress,
}

/// Replaces the ruleset of a namespace. `Err`: why it cannot be measured.
pub(crate) fn nftables(
    ns: &Netns,
    table: &Table,
    hook: Hook,
    interface: &str,
) -> Result<(), String> {
    let (family, chain) = match hook {
        Hook::Output => ("inet", "hook output".to_owned()),
        Hook::Egress => ("netdev", format!("hook egress device \"{interface}\"")),
        Hook::Ingress => ("netdev", format!("hook ingress device \"{interface}\"")),
    };
    // What arrives has no mark.
    let mark = if hook == Hook::Ingress { String::new() } else { format!("meta mark {MARK:#x} ") };
    let mut script = format!("flush ruleset\ntable {family} sov {{\n");
    for (name, kind, version) in [("reach4", "ipv4_addr", 4), ("reach6", "ipv6_addr", 6)] {
        let _ = write!(script, "set {name} {{ type {kind}; flags interval; elements = {{");
        for (i, element) in elements(table, version).iter().enumerate() {
            script.push_str(if i == 0 { "\n" } else { ",\n" });
            script.push_str(element);
        }
        script.push_str("\n} }\n");
    }
    let _ = write!(
        script,
        "chain judge {{ type filter {chain} priority 0; policy accept;\n\
         {mark}ip daddr != @reach4 counter drop\n\
         {mark}ip6 daddr != @reach6 counter drop\n}}\n}}\n"
    );
    let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
    fs::write(file.path(), script).map_err(|e| e.to_string())?;
    let path = file.path().to_string_lossy().into_owned();
    command(ns, "nft", &["-f", &path], "")
}

/// Packets that the rules of [`nftables`] have dropped.
pub(crate) fn dropped(ns: &Netns) -> u64 {
    let listed = ns.command("nft").args(["-t", "list", "ruleset"]).output();
    let text = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let text = text.unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let counters = words.windows(2).filter(|pair| pair[0] == "packets");
    counters.filter_map(|pair| pair[1].parse::<u64>().ok()).sum()
}

/// Replaces the sets of a namespace and the two rules of its OUTPUT chains.
pub(crate) fn ipset(ns: &Netns, table: &Table) -> Result<(), String> {
    for iptables in ["iptables-legacy", "ip6tables-legacy"] {
        command(ns, iptables, &["-F", "OUTPUT"], "")?;
    }
    command(ns, "ipset", &["destroy"], "")?;
    let mut script = String::new();
    for (name, family, version) in [("reach4", "inet", 4), ("reach6", "inet6", 6)] {
        let prefixes = table.allowed(version);
        let size = prefixes.len().max(1024);
        let _ = writeln!(
            script,
            "create {name} hash:net family {family} maxelem {size} hashsize {size}"
        );
        for prefix in prefixes {
            let _ = writeln!(script, "add {name} {}", cidr(*prefix, version));
        }
    }
    command(ns, "ipset", &["restore"], &script)?;
    let mark = format!("{MARK:#x}");
    for (iptables, set) in [("iptables-legacy", "reach4"), ("ip6tables-legacy", "reach6")] {
        let rule = ["-A", "OUTPUT", "-m", "mark", "--mark", &mark, "-m", "set"];
        let rule = [&rule[..], &["!", "--match-set", set, "dst", "-j", "DROP"]].concat();
        command(ns, iptables, &rule, "")?;
    }
    Ok(())
}

/// Of the embedded table, neighbours as one range; else the prefixes as they are.
fn elements(table: &Table, family: u8) -> Vec<String> {
    let prefixes = table.allowed(family);
    if table.id != "embedded" {
        return prefixes.iter().map(|prefix| cidr(*prefix, family)).collect();
    }
    let mut ranges: Vec<(u128, u128)> = vec![];
    for &(first, length) in prefixes {
        let last = first + ((1u128 << (width(family) - length)) - 1);
        match ranges.last_mut() {
            Some(range) if range.1.checked_add(1) == Some(first) => range.1 = last,
            _ => ranges.push((first, last)),
        }
    }
    let text = |(first, last): &(u128, u128)| {
        format!("{}-{}", text_of(*first, family), text_of(*last, family))
    };
    ranges.iter().map(text).collect()
}

fn cidr((address, length): Prefix, family: u8) -> String {
    format!("{}/{length}", text_of(address, family))
}

fn command(ns: &Netns, program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let mut command = ns.command(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {e}"),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", log.lines().next().unwrap_or("failed without a word")))
}
