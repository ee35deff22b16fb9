//! The shared enums as words in serde: `#[serde(with = "words::verdict")]`. Unknown words are errors.

use std::fmt::Display;

use serde::{Deserialize as _, Deserializer, de::Error as _};
use sov_common::{
    abi::Hook,
    verdict::{Reason, Scope, Verdict},
};

use crate::data::model::{Control, ControlBasis, Country, Location};

macro_rules! word {
    ($module:ident, $type:ty, $what:literal, $text:expr) => {
        pub(crate) mod $module {
            use super::*;

            pub(crate) fn serialize<S: serde::Serializer>(
                value: &$type,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let text: fn(&$type) -> _ = $text;
                serializer.collect_str(&text(value))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$type, D::Error> {
                let word = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                super::Word::parse(&word).ok_or_else(|| D::Error::custom(unknown($what, &word)))
            }
        }
    };
}

word!(verdict, Verdict, "verdict", |v| v.as_str());
word!(reason, Reason, "reason", |v| v.as_str());
word!(scope, Scope, "scope", |v| v.as_str());
word!(hook, Hook, "hook", |v| v.as_str());
word!(location, Location, "location", |v| *v);
word!(control, Control, "control", |v| *v);
word!(basis, ControlBasis, "control_basis", |v| v.as_str());

/// An optional country: absent, null, or two letters.
pub(crate) mod country {
    use super::*;

    pub(crate) fn serialize<S: serde::Serializer>(
        value: &Option<Country>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(country) => serializer.serialize_some(country.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Country>, D::Error> {
        match Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)? {
            None => Ok(None),
            Some(word) => match Country::new(&word) {
                Some(country) => Ok(Some(country)),
                None => Err(D::Error::custom(unknown("country", &word))),
            },
        }
    }
}

fn unknown(what: &str, word: &dyn Display) -> String {
    // The word may be megabytes of somebody's choosing.
    format!("unknown {what} {:.40?}", word.to_string())
}

/// A type whose values are words.
pub(crate) trait Word: Sized {
    fn parse(word: &str) -> Option<Self>;
}

impl Word for Verdict {
    fn parse(word: &str) -> Option<Self> {
        [Self::Allow, Self::Block, Self::WouldBlock].into_iter().find(|v| v.as_str() == word)
    }
}

impl Word for Reason {
    fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|v| v.as_str() == word)
    }
}

impl Word for Hook {
    fn parse(word: &str) -> Option<Self> {
        (0..=u8::MAX).map_while(|n| Self::from_u8(n + 1)).find(|v| v.as_str() == word)
    }
}

impl Word for Scope {
    fn parse(word: &str) -> Option<Self> {
        use Scope::*;
        [Loopback, Private, Cgnat, LinkLocal, Multicast, Documentation, Benchmark, Reserved, Global]
            .into_iter()
            .find(|v| v.as_str() == word)
    }
}

impl Word for Location {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "anycast" => Some(Self::Anycast),
            "unknown" => Some(Self::Unknown),
            _ => Country::new(word).map(Self::Country),
        }
    }
}

impl Word for Control {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "contested" => Some(Self::Contested),
            "unknown" => Some(Self::Unknown),
            _ => Country::new(word).map(Self::Country),
        }
    }
}

impl Word for ControlBasis {
    fn parse(word: &str) -> Option<Self> {
        [Self::Catalog, Self::Registered, Self::None].into_iter().find(|v| v.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_its_word() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        for number in 1..=9 {
            if let Some(hook) = Hook::from_u8(number) {
                assert_eq!(Hook::parse(hook.as_str()), Some(hook));
            }
        }
        for word in ["JP", "anycast", "unknown"] {
            assert_eq!(Location::parse(word).expect("known").to_string(), word);
        }
        for word in ["US", "contested", "unknown"] {
            assert_eq!(Control::parse(word).expect("known").to_string(), word);
        }
        assert_eq!(Verdict::parse("blocked"), None);
        assert_eq!(Location::parse("Japan"), None);
    }
}
