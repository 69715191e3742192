//! The memory file by which a proxy leaves its credentials to its successor. It is never torn: a new content is written
//! beside the present one, then a header of 24 bytes points at it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bartizan_types::Secret;

const MAGIC: u64 = u64::from_be_bytes(*b"bartizan");
const SLOTS: [u64; 2] = [4096, 4096 + MOST_BYTES];
/// The largest content, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;

/// The open memory file.
#[derive(Debug)]
pub(crate) struct MemoryFile(File);

impl MemoryFile {
    /// Takes the inherited descriptor over.
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    /// The present content; `None` when there is none.
    pub(crate) fn read(&self) -> Option<Secret<Vec<u8>>> {
        let (offset, length) = self.header()?;
        let mut content = vec![0; usize::try_from(length).ok()?];
        self.0.read_exact_at(&mut content, offset).ok()?;
        Some(Secret::new(content))
    }

    /// Puts `content` in place of the present one.
    ///
    /// # Errors
    /// When it is too large or memory is used up; the present content stays then.
    pub(crate) fn write(&self, content: &Secret<Vec<u8>>) -> io::Result<()> {
        let content = content.expose();
        let length = content.len() as u64;
        if length > MOST_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let offset = match self.header() {
            Some((offset, _)) if offset == SLOTS[0] => SLOTS[1],
            Some(_) | None => SLOTS[0],
        };
        self.0.write_all_at(content, offset)?;
        let mut header = Vec::with_capacity(24);
        for field in [MAGIC, offset, length] {
            header.extend_from_slice(&field.to_be_bytes());
        }
        self.0.write_all_at(&header, 0)
    }

    /// Leaves nothing to a successor, so that its supervisor lets it prove itself anew.
    ///
    /// # Errors
    /// When the descriptor does not allow it.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.0.set_len(0)
    }

    fn header(&self) -> Option<(u64, u64)> {
        let mut header = [0; 24];
        self.0.read_exact_at(&mut header, 0).ok()?;
        let field = |at: usize| {
            header
                .get(at..at + 8)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_be_bytes)
        };
        let (magic, offset, length) = (field(0)?, field(8)?, field(16)?);
        (magic == MAGIC && SLOTS.contains(&offset) && length <= MOST_BYTES).then_some((offset, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_content_is_read_and_nothing_after_a_clear() {
        let file = MemoryFile::new(tempfile::tempfile().unwrap());
        assert!(file.read().is_none());
        for content in [&b"first"[..], b"second, longer", b"3"] {
            file.write(&Secret::new(content.to_vec())).unwrap();
            assert_eq!(file.read().unwrap().expose(), content);
        }
        file.clear().unwrap();
        assert!(file.read().is_none());
    }

    #[test]
    fn a_content_that_was_not_finished_does_not_count() {
        let file = MemoryFile::new(tempfile::tempfile().unwrap());
        file.write(&Secret::new(b"good".to_vec())).unwrap();
        file.0.write_all_at(b"half of the ne", SLOTS[1]).unwrap();
        assert_eq!(file.read().unwrap().expose(), b"good");
    }

    #[test]
    fn anything_else_in_the_file_is_no_content() {
        let file = MemoryFile::new(tempfile::tempfile().unwrap());
        file.0.write_all_at(&[0xff; 5000], 0).unwrap();
        assert!(file.read().is_none());
    }
}
