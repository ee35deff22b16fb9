//! An image as bytes: hash, dump, and reading back with every check that makes it trustworthy.

use sha2::{Digest, Sha256};
use sov_common::{
    abi::ABI_VERSION,
    image::{self, MAX_SLOT_WORDS, header},
};

use super::build::Image;

/// Why bytes are not an image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageError {
    #[error("not a policy image: {0}")]
    Format(&'static str),
    #[error(
        "policy image of ABI {found}, this program reads ABI {expected}; compile the policy again"
    )]
    Abi { found: u32, expected: u32 },
    #[error("the policy image is damaged: its content hash does not match")]
    Hash,
}

impl Image {
    /// SHA-256 of the policy source and its data.
    pub fn policy_hash(&self) -> [u8; 32] {
        self.hash_at(header::POLICY_HASH)
    }

    /// SHA-256 of the image itself, without what is set when it goes live.
    pub fn content_hash(&self) -> [u8; 32] {
        self.hash_at(header::CONTENT_HASH)
    }

    /// The kernel's words for one generation. `epoch` = Unix seconds minus CLOCK_BOOTTIME seconds.
    pub fn live(&self, generation: u32, epoch: u32) -> Vec<u32> {
        let mut words = self.words.clone();
        words[header::GENERATION as usize] = generation;
        words[header::EPOCH as usize] = epoch;
        words
    }

    /// The words, little-endian, then the metadata.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.extend(&self.metadata);
        bytes
    }

    /// Reads a dump back; refuses anything that `to_bytes` of this version did not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImageError> {
        let word_at = |index: u32| {
            let at = index as usize * 4;
            bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        if word_at(header::MAGIC) != Some(image::MAGIC) {
            return Err(ImageError::Format("it does not start with SOVI"));
        }
        match word_at(header::ABI) {
            Some(ABI_VERSION) => {}
            found => {
                let found = found.unwrap_or(0);
                return Err(ImageError::Abi { found, expected: ABI_VERSION });
            }
        }
        let count = word_at(header::WORDS).unwrap_or(0) as usize * 4;
        let metadata = word_at(header::METADATA_BYTES).unwrap_or(0) as usize;
        if count < header::END as usize * 4 || count > MAX_SLOT_WORDS as usize * 4 {
            return Err(ImageError::Format("its size is out of range"));
        }
        if bytes.len() != count + metadata {
            return Err(ImageError::Format("it is truncated or has trailing bytes"));
        }
        let (words, metadata) = bytes.split_at(count);
        let image = Self {
            words: words
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            metadata: metadata.to_vec(),
        };
        if image.compute_hash() != image.content_hash() {
            return Err(ImageError::Hash);
        }
        Ok(image)
    }

    pub(super) fn compute_hash(&self) -> [u8; 32] {
        let skipped = header::CONTENT_HASH..header::CONTENT_HASH + 8;
        let mut hash = Sha256::new();
        let mut bytes = Vec::with_capacity(self.words.len() * 4);
        for (i, word) in self.words.iter().enumerate() {
            let i = i as u32;
            let live = i == header::GENERATION || i == header::EPOCH || skipped.contains(&i);
            bytes.extend_from_slice(&if live { 0 } else { *word }.to_le_bytes());
        }
        hash.update(&bytes);
        hash.update(&self.metadata);
        hash.finalize().into()
    }

    fn hash_at(&self, index: u32) -> [u8; 32] {
        let mut hash = [0; 32];
        for (i, out) in hash.chunks_exact_mut(4).enumerate() {
            out.copy_from_slice(&self.words[index as usize + i].to_le_bytes());
        }
        hash
    }
}
