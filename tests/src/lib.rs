//! Test harness: network namespaces, packets, traffic.
