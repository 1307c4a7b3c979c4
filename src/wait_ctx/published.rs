//! Words that one thread at a time writes, and that any thread reads without a lock and without writing anything.
//!
//! ```text
//!   sequence   2n        2n + 1                2n + 2
//!              |         |                     |
//!   writer     |  begin  |  word  word  word   |  end
//!   reader     s         ^ starts again        s, words, s: a copy
//! ```
//!
//! This is a sequence lock. The sequence number is odd while the words change. A reader notes the number, copies the
//! words, and reads the number again. The copy is whole if the number was even and has stayed. A reader that meets a
//! writer several times gives up, and its caller takes the lock of the writers. So no reader waits for ever, not even
//! for a writer that the system does not run.
//!
//! # The memory orders
//!
//! The words are atomics, so a reader and a writer that meet are no data race. Four things order them:
//!
//! * The writer stores the odd number, then has a `Release` fence, then stores words. The reader loads words, then has
//!   an `Acquire` fence, then loads the number. If the reader has seen any word of a writer, the two fences
//!   synchronize, and the reader sees the odd number of that writer, or a later one. That is another number than the
//!   one it began with, and the copy is thrown away.
//! * A word that is written alone needs no number: before and after it the words belong together. It is stored with
//!   `Release`, and the `Acquire` fence of a reader that has seen it synchronizes with that. A reader that meets two
//!   such writes may see the second without the first. So each of them has to be right beside the older words, too:
//!   the entries only take away in this way (the last record, or a flag of one), and each record for itself is as it
//!   was at some time of the read.
//! * The writer stores the even number with `Release`, and the reader begins with a load of the number with `Acquire`.
//!   The reader sees all words that were written before that number.
//! * Writers follow each other, because each holds the lock.
//!
//! What a writer has done before it wrote happens before what a reader does with its copy, by the second and the
//! third of these: an engine's thread may follow a pointer that it has read here.

#[cfg(asyncjob_loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(asyncjob_loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The words while they change.
pub(super) struct Writer<'a, const N: usize>(&'a [Word; N]);

impl<const N: usize> Writer<'_, N> {
    #[inline]
    pub(super) fn set(&self, place: usize, value: u64) {
        self.0[place].set(value);
    }
}

/// How often a reader tries again before it gives up.
const ATTEMPTS: usize = if cfg!(asyncjob_loom) { 2 } else { 64 };

/// One of the words.
pub(super) struct Word(AtomicU64);

impl Word {
    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// `N` words, which are read as they were at one moment. They are 0 at first.
pub(super) struct Published<const N: usize> {
    pub(super) sequence: AtomicU64,
    pub(super) words: [Word; N],
}

impl<const N: usize> Published<N> {
    pub(super) fn new() -> Self {
        Published {
            sequence: AtomicU64::new(0),
            words: std::array::from_fn(|_| Word(AtomicU64::new(0))),
        }
    }

    /// Lets `change` set words. Only one thread at a time may make this call: the caller holds a lock.
    #[inline]
    pub(super) fn write(&self, change: impl FnOnce(Writer<'_, N>)) {
        let before = self.sequence.load(Ordering::Relaxed); // no other thread stores it meanwhile
        self.sequence.store(before + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        change(Writer(&self.words));
        self.sequence.store(before + 2, Ordering::Release);
    }

    /// Sets one word. A reader gets the word of before or this one, beside the same other words, so this takes no
    /// sequence number. As for [`write`](Self::write), the caller holds a lock.
    #[inline]
    pub(super) fn write_one(&self, place: usize, value: u64) {
        // Release: as the even number of `write`, it makes visible what the caller has done before.
        self.words[place].0.store(value, Ordering::Release);
    }

    /// A copy, which `copy` makes of the words. `copy` may be called several times, and see words that do not belong
    /// together: what it returns then is thrown away. Returns `None` if the words were being written each time.
    #[inline]
    pub(super) fn read<R>(&self, copy: impl Fn(&[Word; N]) -> R) -> Option<R> {
        for _ in 0..ATTEMPTS {
            let before = self.sequence.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let copied = copy(&self.words);
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return Some(copied);
                }
            }
            std::hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_all<const N: usize>(words: &Published<N>, value: u64) {
        words.write(|writer| (0..N).for_each(|place| writer.set(place, value)));
    }

    #[cfg(not(asyncjob_loom))]
    #[test]
    fn a_reader_gets_what_was_written_last() {
        let words = Published::<3>::new();
        assert_eq!(words.read(|words| words.each_ref().map(Word::get)), Some([0; 3]));
        words.write(|writer| writer.set(1, 7));
        assert_eq!(words.read(|words| words.each_ref().map(Word::get)), Some([0, 7, 0]));
    }

    #[cfg(not(asyncjob_loom))]
    #[test]
    fn a_reader_that_meets_a_writer_each_time_gives_up() {
        let words = Published::<2>::new();
        words.write(|_| assert_eq!(words.read(|words| words[0].get()), None));
        write_all(&words, 1);
        assert_eq!(words.read(|words| words[1].get()), Some(1));
    }

    /// Every order in which a reader and two writes can meet. `cargo test -p asyncjob-loom` runs it.
    #[cfg(asyncjob_loom)]
    #[test]
    fn no_reader_sees_half_a_write_and_none_misses_what_happened_before() {
        use loom::sync::Arc;
        use loom::sync::atomic::AtomicU64;

        loom::model(|| {
            // The plain part of what a writer has done before it wrote.
            let words = Arc::new((Published::<2>::new(), AtomicU64::new(0)));
            let writer = Arc::clone(&words);
            let writes = loom::thread::spawn(move || {
                for value in 1..=2 {
                    writer.1.store(value, Ordering::Relaxed);
                    write_all(&writer.0, value);
                }
            });
            if let Some([first, second]) = words.0.read(|words| words.each_ref().map(Word::get)) {
                assert_eq!(first, second, "half a write");
                assert!(
                    words.1.load(Ordering::Relaxed) >= first,
                    "what happened before the write is missing"
                );
            }
            writes.join().unwrap();
            assert_eq!(words.0.read(|words| words[1].get()), Some(2));
        });
    }

    /// As above, for a word that is written alone.
    #[cfg(asyncjob_loom)]
    #[test]
    fn a_word_that_is_written_alone_is_seen_beside_the_others_of_its_time() {
        use loom::sync::Arc;
        use loom::sync::atomic::AtomicU64;

        loom::model(|| {
            let words = Arc::new((Published::<2>::new(), AtomicU64::new(0)));
            let writer = Arc::clone(&words);
            let writes = loom::thread::spawn(move || {
                writer.1.store(1, Ordering::Relaxed);
                writer.0.write_one(1, 1);
                write_all(&writer.0, 2);
            });
            if let Some(copy) = words.0.read(|words| words.each_ref().map(Word::get)) {
                assert!([[0, 0], [0, 1], [2, 2]].contains(&copy), "{copy:?}");
            }
            // A reader that follows the word alone sees what happened before it.
            if words.0.words[1].0.load(Ordering::Acquire) == 1 {
                assert_eq!(words.1.load(Ordering::Relaxed), 1);
            }
            writes.join().unwrap();
        });
    }
}
