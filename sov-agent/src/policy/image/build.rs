//! Lays out an [`ImageSpec`] as words.

use super::ImageSpec;

/// A finished image: the kernel's words, then the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    words: Vec<u32>,
    metadata: Vec<u8>,
}

/// A specification that no image can hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    #[error(
        "the image needs {need} bytes, the kernel's slot holds {slot}; use fewer or larger prefixes"
    )]
    TooLarge { need: usize, slot: usize },
}

impl Image {
    /// The kernel's part.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    pub fn metadata(&self) -> &[u8] {
        &self.metadata
    }

    pub fn build(_spec: &ImageSpec) -> Result<Self, BuildError> {
        Err(BuildError::TooLarge { need: 0, slot: 0 })
    }
}
