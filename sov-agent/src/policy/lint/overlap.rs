//! Selectors of different tags that one packet can match: with equal ranks nothing says which tag wins.

use super::super::{
    diagnostic::Diagnostic,
    model::{Policy, Selector, Spanned, Tag},
};

/// Compares the selectors of every two tags of equal rank, and those of each tag with each other.
pub(super) fn check(out: &mut Vec<Diagnostic>, policy: &Policy) {
    for (index, tag) in policy.tags.iter().enumerate() {
        repeated(out, tag);
        // A rank that could not be read equals none.
        let equal = |o: &&Tag| o.has_rank && tag.has_rank && o.rank.value == tag.rank.value;
        for other in policy.tags[index + 1..].iter().filter(equal) {
            pair(out, tag, other);
        }
    }
}

fn repeated(out: &mut Vec<Diagnostic>, tag: &Tag) {
    for (index, selector) in tag.select.iter().enumerate() {
        let first = tag.select[..index].iter().find(|other| other.value == selector.value);
        if let Some(first) = first {
            let message = format!("tag `{}` has this selector twice", tag.name.value);
            out.push(
                Diagnostic::warning("duplicate", selector.span.clone(), message)
                    .help("remove one")
                    .other(first.span.clone(), "the first one"),
            );
        }
    }
}

fn pair(out: &mut Vec<Diagnostic>, a: &Tag, b: &Tag) {
    let rank = a.rank.value;
    let mut crossing: Option<(&Spanned<Selector>, &Spanned<Selector>)> = None;
    let before = out.len();
    for theirs in &b.select {
        for ours in &a.select {
            match overlap(&ours.value, &theirs.value) {
                Overlap::Same(how) => {
                    let message = format!(
                        "`{}` and `{}` both have rank {rank}, but {how}",
                        a.name.value, b.name.value
                    );
                    out.push(
                        Diagnostic::error("equal-rank", theirs.span.clone(), message)
                            .help("give the tags different ranks; the higher one wins")
                            .other(ours.span.clone(), "overlaps with this"),
                    );
                }
                Overlap::Never => {}
                Overlap::OtherKind => crossing = crossing.or(Some((ours, theirs))),
            }
        }
    }
    if let Some((ours, theirs)) = crossing.filter(|_| out.len() == before) {
        let message = format!(
            "a packet can match both `{}` and `{}`, which have the same rank {rank}",
            a.name.value, b.name.value
        );
        out.push(
            Diagnostic::warning("equal-rank", theirs.span.clone(), message)
                .help("give the tags different ranks; the higher one wins")
                .other(ours.span.clone(), "selects by something else"),
        );
    }
}

enum Overlap {
    /// One packet matches both by the same property.
    Same(String),
    Never,
    /// Different properties say nothing about each other.
    OtherKind,
}

fn overlap(a: &Selector, b: &Selector) -> Overlap {
    let same = |equal: bool, how: String| if equal { Overlap::Same(how) } else { Overlap::Never };
    match (a, b) {
        (Selector::Cgroup(a), Selector::Cgroup(b)) => {
            let inside = |inner: &str, outer: &str| {
                inner
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if a == b {
                Overlap::Same(format!("both select cgroup {a}"))
            } else {
                same(inside(a, b) || inside(b, a), format!("cgroups {a} and {b} are nested"))
            }
        }
        (Selector::Mark { value: v, mask: m }, Selector::Mark { value: w, mask: n }) => {
            let both = m & n;
            let example = v | w;
            same(v & both == w & both, format!("mark {example:#x} matches both"))
        }
        (Selector::Source(a), Selector::Source(b)) => {
            same(a.contains(b) || b.contains(a), format!("sources {a} and {b} overlap"))
        }
        (Selector::Dscp(a), Selector::Dscp(b)) => same(a == b, format!("both select DSCP {a}")),
        (Selector::Vlan(a), Selector::Vlan(b)) => same(a == b, format!("both select VLAN {a}")),
        (Selector::Interface(a), Selector::Interface(b)) => {
            same(a == b, format!("both select interface {a}"))
        }
        (Selector::Uid(a), Selector::Uid(b)) => same(a == b, format!("both select uid {a}")),
        _ => Overlap::OtherKind,
    }
}
