//! Metrics in Prometheus' text format on 127.0.0.1:9477, from the same `Status` as the control socket.
//!
//! Names start with `sov_` and end with their unit. Labels come from the policy and from fixed words, never
//! from traffic: their number is bounded by 65 tags x 3 verdicts x the reasons.

use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use hyper::{Method, StatusCode};
use tokio::net::TcpListener;

use crate::{
    control::{
        StatusSource,
        http::{self, Answer, Gate},
        status::Status,
    },
    flowlog::record::Mode,
};

/// Where metrics are served by default: this host only.
pub const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9477);
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, thiserror::Error)]
#[error("metrics: cannot listen on {address}")]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// A bound metrics server.
pub struct Metrics {
    listener: TcpListener,
}

impl Metrics {
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address).await;
        listener
            .map(|listener| Self { listener })
            .map_err(|source| MetricsError { address, source })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped.
    pub async fn serve(&self, source: Arc<dyn StatusSource>) {
        let gate = Gate::new();
        loop {
            let ticket = gate.enter().await;
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let source = Arc::clone(&source);
                    tokio::spawn(async move {
                        let handle = |method, path| route(method, path, Arc::clone(&source));
                        http::converse(stream, handle).await;
                        drop(ticket);
                    });
                }
                Err(e) => http::rest(&e, "metrics").await,
            }
        }
    }
}

async fn route(method: Method, path: String, source: Arc<dyn StatusSource>) -> Answer {
    match (method, path.as_str()) {
        (Method::GET, "/metrics") => match http::ask(source).await {
            Ok(status) => Answer::text(FORMAT, render(&status)),
            Err(text) => Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &text),
        },
        (_, "/metrics") => Answer::error(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
        _ => Answer::error(StatusCode::NOT_FOUND, "no such page; there is /metrics"),
    }
}

/// The whole page.
pub fn render(status: &Status) -> String {
    let mut page = Page::default();
    let Status { agent, policy, ledger, journal, flow_table, .. } = status;

    page.gauge("sov_build_info", "Version of the agent and of its kernel ABI; always 1.")
        .of(&[("version", &agent.version), ("abi", &agent.abi.to_string())], 1);
    page.gauge("sov_start_time_seconds", "When the agent started, unix time.")
        .of(&[], agent.started);
    page.gauge("sov_policy_info", "The live policy; always 1.")
        .of(&[("policy", &policy.name), ("hash", &policy.hash)], 1);
    page.gauge("sov_policy_generation", "Generation of the live policy image.")
        .of(&[], policy.generation);
    page.gauge(
        "sov_policy_restored",
        "1 while the image of an earlier boot is in force, because policy or data make no new one.",
    )
    .of(&[], u64::from(policy.restored.is_some()));
    page.gauge("sov_policy_applied_timestamp_seconds", "When the live image was applied.")
        .of(&[], policy.applied);
    let mut modes = page.gauge("sov_tag_enforced", "1 = blocks are enforced, 0 = audit.");
    for tag in &status.tags {
        let labels = [("tag", &*tag.name), ("tier", &tag.tier)];
        modes.of(&labels, u8::from(tag.mode == Mode::Enforce));
    }

    let mut built = page.gauge("sov_dataset_built_timestamp_seconds", "When a dataset was built.");
    for data in &status.datasets {
        built.of(&[("dataset", &data.id)], data.built);
    }
    let mut stale = page.gauge("sov_dataset_stale", "1 = older than the policy allows.");
    for data in &status.datasets {
        stale.of(&[("dataset", &data.id)], u8::from(data.stale));
    }

    let mut packets = page.counter("sov_packets_total", "Judged packets.");
    for counter in &status.counters {
        packets.of(&counter.labels(), counter.packets);
    }
    let mut bytes =
        page.counter("sov_bytes_total", "Bytes of judged packets, without link headers.");
    for counter in &status.counters {
        bytes.of(&counter.labels(), counter.bytes);
    }

    if !status.xdp_counters.is_empty() {
        let mut packets = page.counter(
            "sov_xdp_packets_total",
            "Packets judged by XDP; those that passed may be in sov_packets_total again.",
        );
        for counter in &status.xdp_counters {
            packets.of(&counter.labels(), counter.packets);
        }
        let mut bytes = page.counter("sov_xdp_bytes_total", "Bytes of them.");
        for counter in &status.xdp_counters {
            bytes.of(&counter.labels(), counter.bytes);
        }
    }

    page.counter("sov_blocked_packets_total", "Packets that were or would have been blocked.")
        .of(&[], ledger.blocked);
    page.counter("sov_ledger_packets_total", "What became of them; the sum is the total.")
        .of(&[("fate", "recorded")], ledger.recorded)
        .of(&[("fate", "aggregated")], ledger.aggregated)
        .of(&[("fate", "suppressed")], ledger.suppressed)
        .of(&[("fate", "lost")], ledger.lost);
    page.gauge("sov_ledger_balanced", "1 = every blocked packet is accounted for.")
        .of(&[], u8::from(ledger.balances()));
    page.counter("sov_flow_table_full_packets_total", "Packets that found the flow table full.")
        .of(&[], ledger.table_full);
    let rejects = &status.rejects;
    page.counter("sov_rejects_total", "Resets and ICMP errors sent for blocked packets.")
        .of(&[], rejects.sent);
    page.counter("sov_rejects_suppressed_total", "Those that the rate limit kept back.")
        .of(&[], rejects.suppressed);
    page.counter("sov_rejects_failed_total", "Those that could not be made or sent.")
        .of(&[], rejects.failed);
    page.gauge("sov_flow_table_entries", "Flows in the kernel's table.")
        .of(&[], flow_table.entries);
    page.gauge("sov_flow_table_capacity_entries", "Flows that fit.").of(&[], flow_table.capacity);

    page.gauge("sov_interfaces", "Interfaces with programs attached.")
        .of(&[], status.interfaces.len());
    let mut links = page.gauge("sov_links", "Attached programs.");
    let all = status.interfaces.iter().flat_map(|i| &i.links);
    let all = all.chain(status.cgroup.iter().flat_map(|c| &c.links));
    let mut by_hook = std::collections::BTreeMap::<_, usize>::new();
    for link in all {
        *by_hook.entry((&*link.hook, &*link.kind)).or_default() += 1;
    }
    for ((hook, kind), count) in by_hook {
        links.of(&[("hook", hook), ("kind", kind)], count);
    }

    page.counter("sov_journal_records_total", "Records written.").of(&[], journal.written);
    page.counter("sov_journal_lost_records_total", "Records that could not be written.")
        .of(&[], journal.lost);
    page.counter("sov_journal_errors_total", "Failed writes, syncs and deletions.")
        .of(&[], journal.errors);
    page.counter("sov_journal_deleted_segments_total", "Segments deleted by the size limit.")
        .of(&[], journal.deleted_segments);
    page.gauge("sov_journal_size_bytes", "Size of all segments.").of(&[], journal.bytes);
    page.gauge("sov_journal_segments", "Segments on disk.").of(&[], journal.segments);
    page.gauge("sov_journal_next_sequence", "Number of the next record.")
        .of(&[], journal.next_sequence);
    page.gauge("sov_warnings", "Warnings that `sov-agent status` shows.")
        .of(&[], status.warnings.len());
    page.text
}

impl crate::control::status::Counter {
    fn labels(&self) -> [(&'static str, &str); 3] {
        // `untagged` is the word that policies and records use; no tag may be called that.
        let tag = self.tag.as_deref().unwrap_or("untagged");
        [("tag", tag), ("verdict", &self.verdict), ("reason", &self.reason)]
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

/// One metric of a page, to which samples are added.
struct Metric<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, "gauge", help)
    }

    fn counter(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, "counter", help)
    }

    fn metric(&mut self, name: &'static str, kind: &str, help: &str) -> Metric<'_> {
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Metric { page: &mut self.text, name }
    }
}

impl Metric<'_> {
    fn of(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) -> &mut Self {
        self.page.push_str(self.name);
        for (at, (name, value)) in labels.iter().enumerate() {
            self.page.push(if at == 0 { '{' } else { ',' });
            self.page.push_str(name);
            self.page.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.page.push_str("\\\\"),
                    '"' => self.page.push_str("\\\""),
                    '\n' => self.page.push_str("\\n"),
                    c => self.page.push(c),
                }
            }
            self.page.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        // A String takes everything.
        let _ = writeln!(self.page, "{close} {value}");
        self
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::control::status::samples;

    struct Fixed;

    impl StatusSource for Fixed {
        fn status(&self) -> Result<Status, Box<dyn Error + Send + Sync>> {
            Ok(samples::status())
        }
    }

    #[test]
    fn the_page_has_every_number() {
        let page = render(&samples::status());
        for line in [
            "sov_packets_total{tag=\"koseki\",verdict=\"block\",reason=\"foreign_control\"} 10",
            "sov_bytes_total{tag=\"untagged\",verdict=\"allow\",reason=\"no_policy\"} 80000000",
            "sov_ledger_packets_total{fate=\"aggregated\"} 5",
            "sov_xdp_packets_total{tag=\"koseki\",verdict=\"block\",reason=\"scope\"} 3",
            "sov_rejects_suppressed_total 2",
            "sov_ledger_balanced 1",
            "sov_dataset_stale{dataset=\"jp-snapshot\"} 1",
            "sov_tag_enforced{tag=\"koseki\",tier=\"sovereign\"} 1",
            "sov_links{hook=\"tc_egress\",kind=\"tcx\"} 1",
            "# TYPE sov_journal_records_total counter",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        if let Some(path) = std::env::var_os("SOV_METRICS_SAMPLE") {
            std::fs::write(path, page).expect("writes");
        }
    }

    #[test]
    fn names_appear_once_and_samples_belong_to_them() {
        let page = render(&samples::status());
        let mut seen = std::collections::HashSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().expect("a name");
                assert!(seen.insert(current), "{current} twice");
                let counter = rest.ends_with(" counter");
                assert_eq!(current.ends_with("_total"), counter, "{current}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name");
                assert_eq!(name, current);
            }
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut status = samples::status();
        status.policy.name = "a\"b\\c\nd".into();
        assert!(render(&status).contains(r#"policy="a\"b\\c\nd""#));
    }

    #[tokio::test]
    async fn the_page_is_served() {
        let metrics = Metrics::bind(([127, 0, 0, 1], 0).into()).await.expect("binds");
        let address = metrics.address().expect("bound");
        let server = tokio::spawn(async move { metrics.serve(Arc::new(Fixed)).await });
        for (path, status) in [("/metrics", "200"), ("/", "404")] {
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("writes");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("reads");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert_eq!(answer.contains("sov_build_info"), status == "200");
        }
        server.abort();
    }
}
