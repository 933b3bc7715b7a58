//! A page of the tracer's buffer, as `trace_pipe_raw` gives it (`kernel/trace/ring_buffer.c`).
//!
//! A header (time of the page, length of what is in it) and records, each with the time since the one before.

/// Bytes of the header: a time of 64 bits and the length of the data.
const HEADER: usize = 16;
/// Set in the length where records before this page were lost (`RB_MISSED_EVENTS`).
const MISSED: u64 = 1 << 31;
/// The length itself (`RB_WRITE_MASK`).
const LENGTH: u64 = 0xf_ffff;
/// Bits of a record's first word that say what it is; the others are the time since the one before.
const KIND_BITS: u32 = 5;
/// Bits of a time that a time stamp has not (`TS_MASK`).
const STAMP_BITS: u32 = 59;

/// A record and when it was made, in nanoseconds of the clock of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'p> {
    /// When.
    pub at: u64,
    /// What.
    pub bytes: &'p [u8],
}

/// The records of a page, in their order.
#[derive(Debug, Clone)]
pub struct Page<'p> {
    rest: &'p [u8],
    at: u64,
    /// Whether records before this page are lost.
    pub is_torn: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

impl<'p> Page<'p> {
    /// Returns the page that begins with these bytes; `None` when they are none.
    pub fn new(bytes: &'p [u8]) -> Option<Self> {
        let (at, commit) = (long(bytes, 0)?, long(bytes, 8)?);
        let end = HEADER + usize::try_from(commit & LENGTH).ok()?;
        Some(Page {
            rest: &bytes[HEADER..end.min(bytes.len())],
            at,
            is_torn: commit & MISSED != 0,
        })
    }

    /// Takes `n` bytes off the rest; all of it when it has fewer.
    fn take(&mut self, n: usize) -> &'p [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

impl<'p> Iterator for Page<'p> {
    type Item = Record<'p>;

    fn next(&mut self) -> Option<Record<'p>> {
        loop {
            let head = word(self.rest, 0)?;
            let (kind, delta) = (head & ((1 << KIND_BITS) - 1), u64::from(head >> KIND_BITS));
            match kind {
                // Padding: to the end of the page, or as long as it says.
                29 if delta == 0 => return None,
                29 => {
                    let length = usize::try_from(word(self.rest, 4)?).ok()?;
                    self.at = self.at.wrapping_add(delta);
                    self.take(4 + length.max(4));
                }
                30 => {
                    let more = u64::from(word(self.rest, 4)?) << (32 - KIND_BITS);
                    self.at = self.at.wrapping_add(delta + more);
                    self.take(8);
                }
                31 => {
                    let stamp = delta + (u64::from(word(self.rest, 4)?) << (32 - KIND_BITS));
                    self.at = self.at >> STAMP_BITS << STAMP_BITS | stamp;
                    self.take(8);
                }
                _ => {
                    self.at = self.at.wrapping_add(delta);
                    return self.record(kind);
                }
            }
        }
    }
}

impl<'p> Page<'p> {
    /// Returns the record at the beginning of the rest: its length is in `kind`, in words, or in a word of its own.
    fn record(&mut self, kind: u32) -> Option<Record<'p>> {
        let (skipped, length) = match kind {
            0 => (8, word(self.rest, 4)?.checked_sub(4)?),
            words => (4, words * 4),
        };
        let length = usize::try_from(length).ok()?;
        self.take(skipped);
        let at = self.at;
        let bytes = self.take(length);
        (bytes.len() == length).then_some(Record { at, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(at: u64, commit: u64, words: &[u32]) -> Vec<u8> {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(commit.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    #[test]
    fn records_have_times_and_bytes() {
        let words = [
            5 << 5 | 1, // a record of one word, 5 ns later
            0xaaaa_aaaa,
            7 << 5 | 30, // 7 ns and 2 << 27 more
            2,
            1 << 5, // a record with its length in a word of its own: 8 bytes
            12,
            1,
            2,
            9 << 5 | 31, // the time is 9 from here on
            0,
            3 << 5 | 29, // padding of 12 bytes
            8,
            0,
            1 << 5 | 1,
            0xbbbb_bbbb,
            29, // the rest of the page is nothing
            0xdead,
        ];
        let length = u64::try_from(words.len() * 4).unwrap();
        let bytes = page(100, length | MISSED, &words);
        let page = Page::new(&bytes).unwrap();
        assert!(page.is_torn);
        let found: Vec<(u64, usize)> = page.map(|record| (record.at, record.bytes.len())).collect();
        assert_eq!(found, [(105, 4), (105 + 7 + (2 << 27) + 1, 8), (13, 4)]);
    }

    #[test]
    fn a_page_says_how_much_of_it_is_written() {
        let bytes = page(1, 8, &[1 << 5 | 1, 7, 1 << 5 | 1, 8]);
        let page = Page::new(&bytes).unwrap();
        assert!(!page.is_torn);
        assert_eq!(page.count(), 1);
        assert!(Page::new(&bytes[..15]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Some(page) = Page::new(&bytes) {
                prop_assert!(page.count() <= bytes.len());
            }
        }
    }
}
