//! What the figures were measured on.

use std::{fs, process::Command};

use sov_tests::cpu;

/// (name, value), in the order of the report.
pub(crate) fn describe() -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = vec![];
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            out.push((name.to_owned(), value));
        }
    };
    say("kernel", read("/proc/sys/kernel/osrelease"));
    say("CPU", cpu_model());
    say("CPUs", cpu::count().to_string());
    say("hypervisor", hypervisor());
    say("BPF JIT", read("/proc/sys/net/core/bpf_jit_enable"));
    for name in ["spectre_v2", "retbleed", "spec_rstack_overflow", "spec_store_bypass"] {
        let value = read(&format!("/sys/devices/system/cpu/vulnerabilities/{name}"));
        say(name, value);
    }
    say("load before", read("/proc/loadavg"));
    for (name, argument) in [("nft", "--version"), ("ipset", "--version")] {
        say(name, first_line(name, argument));
    }
    say("iptables", first_line("iptables-legacy", "--version"));
    out
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn cpu_model() -> String {
    let text = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let parts = [field("model name"), field("cache size").map(|size| format!("{size} cache"))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn hypervisor() -> String {
    let flags = read("/proc/cpuinfo");
    let virtual_cpu = flags.lines().any(|line| {
        line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
    });
    if virtual_cpu { "yes: a virtual machine".to_owned() } else { String::new() }
}

fn first_line(program: &str, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else { return String::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}
