//! An image of an earlier boot on this host: the same policy, other numbers of cgroups and interfaces.

use sov_common::{
    abi::MAX_TAGS,
    image::{NO_TAG, flags, header},
};

use super::{
    build::{BuildError, Image, Layout, Order},
    selectors,
};
use crate::policy::meta::TagMeta;

/// Numbers of what the tags' selectors name, each with the slot of its tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Id, depth below the root of the hierarchy, slot.
    pub cgroups: Vec<(u64, u8, u8)>,
    /// Index, slot.
    pub interfaces: Vec<(u32, u8)>,
}

impl Image {
    /// The same image for these numbers; whatever it knew before is forgotten.
    pub fn rebind(&self, tags: &[TagMeta], numbers: &Numbers) -> Result<Self, BuildError> {
        let mut words = Layout(self.words.clone());
        let order = order(tags);
        let cgroups: Vec<_> = numbers.cgroups.iter().map(|(id, _, slot)| (*id, *slot)).collect();
        let interfaces: Vec<_> =
            numbers.interfaces.iter().map(|(index, slot)| (u64::from(*index), *slot)).collect();
        let mut used = self.words[header::FLAGS as usize];
        for (flag, at, what, keys) in [
            (flags::CGROUP, header::CGROUPS, "cgroup", cgroups),
            (flags::INTERFACE, header::INTERFACES, "interface", interfaces),
        ] {
            used &= !flag;
            if !keys.is_empty() {
                used |= flag;
                selectors::hash_table(&mut words, at, what, &keys, &order)?;
            }
        }
        let levels = numbers.cgroups.iter().fold(0, |bits, (_, depth, _)| bits | 1 << (depth & 31));
        words.set(header::CGROUP_LEVELS, levels);
        words.set(header::FLAGS, used);
        words.align();
        words.fits()?;
        words.set(header::WORDS, words.0.len() as u32);
        Ok(Self { words: words.0, metadata: self.metadata.clone() }.hashed())
    }
}

/// As the image was built: by falling rank.
fn order(tags: &[TagMeta]) -> Order {
    let mut sorted: Vec<&TagMeta> = tags.iter().collect();
    sorted.sort_by_key(|tag| (std::cmp::Reverse(tag.rank), tag.slot));
    let mut order = Order([NO_TAG; MAX_TAGS as usize]);
    for (i, tag) in sorted.iter().enumerate() {
        if let Some(value) = order.0.get_mut(usize::from(tag.slot)) {
            *value = (i as u32) << 8 | u32::from(tag.slot);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::dataset::Dataset,
        policy::{Environment, Source, compile, parse},
    };

    const POLICY: &str = r#"
version = 1
name = "rebound"
[[tier]]
name = "t"
location = ["JP"]
control = ["JP"]
[[tag]]
name = "low"
tier = "t"
rank = 1
select = [ { cgroup = "/a.slice" }, { interface = "veth-a" }, { mark = "0x1/0xf" } ]
[[tag]]
name = "high"
tier = "t"
rank = 2
select = [ { cgroup = "/b.slice/c" }, { interface = "veth-b" } ]
"#;

    fn environment(base: u32) -> Environment {
        let mut env = Environment::default();
        env.cgroups.insert("/a.slice".into(), (u64::from(base) + 1, 1));
        env.cgroups.insert("/b.slice/c".into(), (u64::from(base) + 2, 2));
        env.interfaces.insert("veth-a".into(), base + 3);
        env.interfaces.insert("veth-b".into(), base + 4);
        env
    }

    /// Rebinding gives the tags that compiling for the new numbers gives.
    #[test]
    fn a_rebound_image_tags_by_the_new_numbers() {
        struct Sender(u64, u32);
        impl sov_common::tags::Origin for Sender {
            fn interface(&self) -> u32 {
                self.1
            }
            fn cgroup(&self, level: u32) -> u64 {
                if level == 1 || level == 2 { self.0 } else { 0 }
            }
            fn uid(&self) -> Option<u32> {
                None
            }
            fn mark(&self) -> u32 {
                0
            }
            fn source(&self) -> Option<sov_common::classify::Address> {
                None
            }
            fn dscp(&self) -> Option<u8> {
                None
            }
            fn vlan(&self) -> u32 {
                0
            }
            fn blind(&self) -> bool {
                false
            }
        }
        let parsed = parse(Source::new("p", POLICY));
        let data = Dataset::embedded().unwrap();
        let old = compile(&parsed, &data, &environment(100), data.built()).unwrap();
        let new = compile(&parsed, &data, &environment(900), data.built()).unwrap();
        let slot = |name: &str| old.meta.tag(name).unwrap().slot;
        let numbers = Numbers {
            cgroups: vec![(901, 1, slot("low")), (902, 2, slot("high"))],
            interfaces: vec![(903, slot("low")), (904, slot("high"))],
        };
        let rebound = old.image.rebind(&old.meta.tags, &numbers).unwrap();
        let tag = |image: &Image, sender: &Sender| sov_common::tags::tag_of(image.words(), sender);
        let mut tagged = 0;
        for id in [0, 101, 102, 901, 902] {
            for index in [0, 103, 104, 903, 904] {
                let sender = Sender(id, index);
                let found = tag(&rebound, &sender);
                assert_eq!(found, tag(&new.image, &sender), "cgroup {id} interface {index}");
                tagged += u32::from(found.is_some());
            }
        }
        assert_eq!(tagged, 16);
        // It is an image like any other.
        assert_eq!(Image::from_bytes(&rebound.to_bytes()).unwrap(), rebound);
        assert_eq!(old.meta.tag("low").unwrap().cgroups, ["/a.slice"]);
        assert_eq!(old.meta.tag("high").unwrap().interfaces, ["veth-b"]);
        // Nothing named is there: no table.
        let none = old.image.rebind(&old.meta.tags, &Numbers::default()).unwrap();
        assert_eq!(tag(&none, &Sender(101, 103)), None);
    }
}
