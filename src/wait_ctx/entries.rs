//! The wait fds of a ctx: the entries, their changes since the last resume, and the values that own the fds.
//!
//! ```text
//!   Entries (under the lock of the ctx)              Published (no lock)
//!     list: Entry, Entry, ...   -- publish -->         length, the first two records, the callback of C
//!           record, value
//! ```
//!
//! The table in the documentation of the parent module has the states of an entry. Everything here runs under the lock
//! of the ctx, or on a copy. So nothing here runs or drops what belongs to the user: values are handed out to the
//! caller, who drops them after the lock is released.

use std::any::Any;
use std::collections::HashMap;
use std::mem::{self, offset_of};
use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;
use std::task::Waker;

use smallvec::SmallVec;

use super::published::{Published, Word, Writer};
use super::value::ValueSlot;
use super::{Changes, Interest, WaitFd, WaitFdOptions, WaitKey, WaitValue};

/// What the C interface keeps with a ctx.
pub(super) type Attachment = Box<dyn Any + Send>;

/// How many entries need no allocation and are read without the lock. An engine has one, and a job that also waits for
/// its socket has two.
const INLINE: usize = 2;

/// From this many entries on, an entry is found by its key in a table, and an entry that is gone stays in the list
/// until as many are gone as are left. So each change of a long list takes the same time, and that of a short one does
/// not pay for it.
const LONG: usize = 32;

/// The entries of a ctx, oldest first.
#[derive(Default)]
pub(super) struct Entries {
    list: List,
    /// Only of a long list.
    long: Option<Box<Long>>,
    /// The serial of the entry that was added last.
    last_serial: u64,
    /// The callback of a C program, and its argument. The function is 0 if there is none.
    callback: [usize; 2],
    /// Makes a waker of such a callback.
    waker_of: Option<WakerOfC>,
    /// What the C interface keeps with the ctx. It is dropped with the ctx, after the values.
    attachment: Option<Attachment>,
}

/// Makes a waker of the callback of a C program.
pub(super) type WakerOfC = fn([usize; 2]) -> Waker;

/// What is known of a long list.
#[derive(Default)]
struct Long {
    /// The places of the entries under each key that are not removed, oldest first.
    places: HashMap<u64, SmallVec<[usize; 1]>>,
    /// How many entries of the list are gone.
    gone: usize,
    /// Whether something has changed since the last resume. A short list is looked through instead.
    is_unsettled: bool,
    /// `set_interest` has put an old serial behind newer ones.
    is_out_of_order: bool,
}

/// The entries one after the other: in place, or all of them on the heap.
///
/// An entry in place is written and read a word at a time. A processor waits for the stores of words when their memory
/// is loaded in larger pieces, as it is when an entry moves.
#[derive(Default)]
struct List {
    /// How many there are in place, or [`SPILLED`].
    length: usize,
    inline: [Entry; INLINE],
    spilled: Vec<Entry>,
}

/// The entries are on the heap.
const SPILLED: usize = usize::MAX;

struct Entry {
    record: Record,
    /// The value that owns the fd. It is absent while it is borrowed, after it was given away, and where there is a
    /// cleanup routine.
    value: ValueSlot,
    /// The cleanup routine of a C program, 0 if it has none, or [`NOT_OF_C`].
    cleanup: usize,
}

/// The entry is one of Rust code, and has a value.
const NOT_OF_C: usize = usize::MAX;

impl Default for Entry {
    fn default() -> Self {
        Entry {
            record: Record::EMPTY,
            value: ValueSlot::default(),
            cleanup: NOT_OF_C,
        }
    }
}

impl Entry {
    /// The value is lent to who called [`Entries::borrow_value`], or was given away.
    fn is_without_value(&self) -> bool {
        self.cleanup == NOT_OF_C && self.value.is_empty()
    }
}

impl Deref for List {
    type Target = [Entry];

    #[inline]
    fn deref(&self) -> &[Entry] {
        self.inline.get(..self.length).unwrap_or(&self.spilled)
    }
}

impl DerefMut for List {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Entry] {
        self.inline.get_mut(..self.length).unwrap_or(&mut self.spilled)
    }
}

impl List {
    /// The place of the next entry, if there is one left in place. It has no value.
    #[inline]
    fn next_inline(&mut self) -> Option<&mut Entry> {
        let next = self.inline.get_mut(self.length)?;
        self.length += 1;
        Some(next)
    }

    /// Adds an entry, wherever there is room.
    fn push(&mut self, entry: Entry) {
        if let Some(next) = self.next_inline() {
            *next = entry;
            return;
        }
        if self.length != SPILLED {
            self.spilled.extend(self.inline.iter_mut().map(mem::take));
            self.length = SPILLED;
        }
        self.spilled.push(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        if self.length == SPILLED {
            return self.spilled.pop();
        }
        let last = self.length.checked_sub(1)?;
        self.length = last;
        Some(mem::take(&mut self.inline[last]))
    }

    fn remove(&mut self, at: usize) -> Entry {
        if self.length == SPILLED {
            return self.spilled.remove(at);
        }
        self.inline[at..self.length].rotate_left(1);
        self.length -= 1;
        mem::take(&mut self.inline[self.length])
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&Entry) -> bool) {
        if self.length == SPILLED {
            return self.spilled.retain(is_kept);
        }
        for at in (0..self.length).rev() {
            if !is_kept(&self.inline[at]) {
                self.remove(at);
            }
        }
    }
}

/// What is known of an entry, apart from its value. It is four words, so that a copy of it decodes nothing.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)] // for asyncjob-capi
pub struct Record {
    key: u64,
    /// The number of the fd, and the flags above it.
    fd_and_flags: u64,
    data: u64,
    serial: u64,
}

/// The fd of a record, with its flags: one word of it.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)] // for asyncjob-capi-lib
pub struct Fd(u64);

impl Fd {
    /// The number of the wait fd.
    #[inline]
    pub fn raw(self) -> RawFd {
        (self.0 as u32).cast_signed()
    }

    /// Whether [`Changes::added`] reports the entry.
    #[inline]
    pub fn is_addition(self) -> bool {
        self.0 & (ADDED | REMOVED) == ADDED
    }

    /// Whether [`Changes::removed`] reports the entry.
    #[inline]
    pub fn is_removal(self) -> bool {
        self.0 & (ADDED | REMOVED) == REMOVED
    }

    /// Whether it does not matter for one of these which key is armed.
    #[inline]
    pub fn count_always([one, other]: [Fd; 2]) -> bool {
        (one.0 | other.0) & ONLY_WHEN_ARMED == 0
    }

    /// Whether the entry was removed since the last resume.
    #[inline]
    pub fn is_removed(self) -> bool {
        self.0 & REMOVED != 0
    }
}

/// An entry that is not removed, as a driver sees it: the record of it.
pub(crate) type LiveFd = Record;

/// The records that are not removed, newest first.
#[inline]
pub(super) fn live(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().rev().filter(|record| !record.is_removed())
}

/// The changes since the last resume. An entry that was added and removed since then is in no list any more.
pub(super) fn changes(records: &[Record]) -> Changes {
    let newest = |pick: fn(&Record) -> bool| {
        let picked = records.iter().rev().filter(|record| pick(record));
        picked.map(Record::fd).collect()
    };
    Changes {
        added: newest(Record::is_addition),
        removed: newest(Record::is_removal),
    }
}

const WRITABLE: u64 = 1 << 32;
const BOTH: u64 = 1 << 33;
const ONLY_WHEN_ARMED: u64 = 1 << 34;
const ADDED: u64 = 1 << 35;
const REMOVED: u64 = 1 << 36;

impl Record {
    /// The words of a record in [`Published`].
    const WORDS: usize = 4;
    const EMPTY: Record = Record {
        key: 0,
        fd_and_flags: 0,
        data: 0,
        serial: 0,
    };

    fn new(fd: WaitFd, data: usize, serial: u64) -> Self {
        let interest = match fd.interest {
            Interest::Readable => 0,
            Interest::Writable => WRITABLE,
            Interest::Both => BOTH,
        };
        let only_when_armed = if fd.only_when_armed { ONLY_WHEN_ARMED } else { 0 };
        Record {
            key: fd.key.0 as u64,
            fd_and_flags: u64::from(fd.fd.cast_unsigned()) | interest | only_when_armed | ADDED,
            data: data as u64,
            serial,
        }
    }

    /// The wait fd.
    #[inline]
    pub fn fd(&self) -> WaitFd {
        let options = WaitFdOptions {
            interest: match self.fd_and_flags & (WRITABLE | BOTH) {
                0 => Interest::Readable,
                WRITABLE => Interest::Writable,
                _ => Interest::Both,
            },
            only_when_armed: self.has(ONLY_WHEN_ARMED),
        };
        WaitFd::new(WaitKey(self.key as usize), self.raw_fd(), options)
    }

    /// The fd with its flags.
    #[inline]
    pub fn fd_of(&self) -> Fd {
        Fd(self.fd_and_flags)
    }

    /// The number of the wait fd.
    #[inline]
    pub fn raw_fd(&self) -> RawFd {
        (self.fd_and_flags as u32).cast_signed()
    }

    /// The custom data of a C program.
    #[inline]
    pub fn data(&self) -> usize {
        self.data as usize
    }

    /// Identifies the entry in its ctx. A newer entry has a higher serial. A change of the interest keeps it.
    #[inline]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether the entry was added, or its interest changed, since the last resume.
    #[inline]
    pub(crate) fn is_added(&self) -> bool {
        self.has(ADDED)
    }

    /// Whether the entry was removed since the last resume. Its value has been given away then.
    #[inline]
    pub fn is_removed(&self) -> bool {
        self.has(REMOVED)
    }

    /// Whether the entry counts while this key is armed.
    #[inline]
    pub fn counts(&self, armed: Option<WaitKey>) -> bool {
        !self.has(ONLY_WHEN_ARMED) || armed.is_some_and(|armed| armed.0 as u64 == self.key)
    }

    /// Whether the entry was added and removed since the last resume. It is in no list of changes. A short list does
    /// not have such entries.
    #[inline]
    fn is_gone(&self) -> bool {
        self.fd_and_flags & (ADDED | REMOVED) == ADDED | REMOVED
    }

    /// Whether [`Changes::added`] reports the entry.
    #[inline]
    pub fn is_addition(&self) -> bool {
        self.fd_and_flags & (ADDED | REMOVED) == ADDED
    }

    /// Whether [`Changes::removed`] reports the entry.
    #[inline]
    pub fn is_removal(&self) -> bool {
        self.fd_and_flags & (ADDED | REMOVED) == REMOVED
    }

    #[inline]
    fn is_live(&self, key: WaitKey) -> bool {
        self.key == key.0 as u64 && !self.is_removed()
    }

    #[inline]
    fn has(&self, flag: u64) -> bool {
        self.fd_and_flags & flag != 0
    }

    #[inline]
    fn from_words([key, fd_and_flags, data, serial]: &[Word; Self::WORDS]) -> Self {
        Record {
            key: key.get(),
            fd_and_flags: fd_and_flags.get(),
            data: data.get(),
            serial: serial.get(),
        }
    }
}

// The words of a record.
const KEY: usize = 0;
const FD_AND_FLAGS: usize = 1;
const DATA: usize = 2;
const SERIAL: usize = 3;

// The words of the view.
const LENGTH: usize = 0;
const CALLBACK: usize = 1;
const RECORDS: usize = 3;
const WORDS: usize = RECORDS + INLINE * Record::WORDS;

/// What readers see of the entries.
pub(super) struct View(Published<WORDS>);

impl View {
    /// Where the words are: the length, two of the callback, and then the records.
    pub(super) const WORDS_AT: usize = offset_of!(View, 0) + offset_of!(Published<WORDS>, words);

    pub(super) fn new() -> Self {
        View(Published::new())
    }

    // The caller of the methods that show something holds the lock of the entries.

    /// Shows the readers what the entries are now.
    #[cold]
    fn show_all(&self, entries: &Entries) {
        self.0.write(|writer| {
            writer.set(LENGTH, entries.list.len() as u64);
            for (at, entry) in entries.list.iter().enumerate().take(INLINE) {
                writer.set_record(at, &entry.record);
            }
        });
    }

    /// Shows a record that was added, and is the one at this place.
    #[inline]
    fn show_added(&self, at: usize, record: &Record) {
        self.0.write(|writer| {
            writer.set(LENGTH, at as u64 + 1);
            if at < INLINE {
                writer.set_record(at, record);
            }
        });
    }

    /// Shows how many entries there are, after the last one was taken out.
    #[inline]
    fn show_length(&self, length: usize) {
        self.0.write_one(LENGTH, length as u64);
    }

    /// Shows the flags of the record at this place.
    #[inline]
    fn show_flags(&self, at: usize, record: &Record) {
        if at < INLINE {
            self.0
                .write_one(RECORDS + at * Record::WORDS + FD_AND_FLAGS, record.fd_and_flags);
        }
    }

    /// Shows the callback of a C program.
    #[inline]
    pub(super) fn show_callback(&self, entries: &Entries) {
        let [function, argument] = entries.callback;
        self.0.write(|writer| {
            writer.set(CALLBACK, function as u64);
            writer.set(CALLBACK + 1, argument as u64);
        });
    }

    /// Calls `f` with the records. Gives `f` back if they must be read under the lock.
    #[inline]
    pub(super) fn read<R, F: FnOnce(&[Record]) -> R>(&self, f: F) -> Result<R, F> {
        let copied = self.0.read(|words| {
            let mut records = [Record::EMPTY; INLINE];
            let length = words[LENGTH].get() as usize;
            for (i, words) in records_of(words).take(length).enumerate() {
                records[i] = Record::from_words(words);
            }
            (length, records)
        });
        match copied {
            Some((length, records)) if length <= INLINE => Ok(f(&records[..length])),
            _ => Err(f),
        }
    }

    /// The records of the view at this address, which another thread owns: see [`super::outside`]. The newest comes
    /// first. `None` if the memory is gone or the words change. Only the first two records are published.
    #[cfg(feature = "insight")]
    pub(super) fn read_outside(at: usize, read: &impl Fn(usize, &mut [u8]) -> Option<()>) -> Option<Vec<Record>> {
        let words = Published::<WORDS>::read_outside(at + offset_of!(View, 0), read)?;
        let length = (words[LENGTH] as usize).min(INLINE);
        let records = (0..length).map(move |i| {
            let [key, fd_and_flags, data, serial] =
                std::array::from_fn(|place| words[RECORDS + i * Record::WORDS + place]);
            Record {
                key,
                fd_and_flags,
                data,
                serial,
            }
        });
        Some(records.rev().collect())
    }

    /// The fd of the newest record under `key` that is not removed, with the data. `None` if it must be looked for
    /// under the lock.
    #[inline]
    pub(super) fn newest(&self, key: WaitKey) -> Option<Option<(Fd, usize)>> {
        self.0
            .read(|words| {
                let length = words[LENGTH].get() as usize;
                if length > INLINE {
                    return None;
                }
                // Not a loop to the length, which would be run as one.
                for at in (0..INLINE).rev() {
                    let words = &words[RECORDS + at * Record::WORDS..][..Record::WORDS];
                    let fd = Fd(words[FD_AND_FLAGS].get());
                    if at < length && words[KEY].get() == key.0 as u64 && !fd.is_removed() {
                        return Some(Some((fd, words[DATA].get() as usize)));
                    }
                }
                Some(None)
            })
            .flatten()
    }

    /// How many records there are, and their fds, oldest first; behind the last there is any word. `None` if they must
    /// be read under the lock.
    #[inline]
    pub(super) fn fds(&self) -> Option<(usize, [Fd; INLINE])> {
        let (length, fds) = self.0.read(|words| {
            let fds = std::array::from_fn(|at| Fd(words[RECORDS + at * Record::WORDS + FD_AND_FLAGS].get()));
            (words[LENGTH].get() as usize, fds)
        })?;
        (length <= INLINE).then_some((length, fds))
    }

    /// The callback of a C program; `None` if it must be read under the lock.
    #[inline]
    pub(super) fn callback(&self) -> Option<[usize; 2]> {
        self.0
            .read(|words| [words[CALLBACK].get() as usize, words[CALLBACK + 1].get() as usize])
    }
}

impl<const N: usize> Writer<'_, N> {
    #[inline]
    fn set_record(&self, at: usize, record: &Record) {
        let words = RECORDS + at * Record::WORDS;
        self.set(words + KEY, record.key);
        self.set(words + FD_AND_FLAGS, record.fd_and_flags);
        self.set(words + DATA, record.data);
        self.set(words + SERIAL, record.serial);
    }
}

#[inline]
fn records_of(words: &[Word; WORDS]) -> impl Iterator<Item = &[Word; Record::WORDS]> {
    let (records, _) = words[RECORDS..].as_chunks();
    records.iter()
}

impl Entries {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing that another job could see: no wait fd has been added, and no C code has set anything.
    pub(super) fn is_new(&self) -> bool {
        self.last_serial == 0 && self.callback == [0; 2] && self.waker_of.is_none() && self.attachment.is_none()
    }

    /// Makes a list without entries what it was when it was new. Returns what the C interface has kept with the ctx.
    pub(super) fn renew(&mut self, view: &View) -> Option<Attachment> {
        debug_assert!(self.list.is_empty() && self.long.is_none());
        if self.list.length == SPILLED {
            self.list.length = 0;
            self.list.spilled = Vec::new();
        }
        self.last_serial = 0;
        if self.callback != [0; 2] {
            self.callback = [0; 2];
            view.show_callback(self);
        }
        self.waker_of = None;
        view.show_length(0);
        self.attachment.take()
    }

    #[inline]
    pub(super) fn add(&mut self, view: &View, fd: WaitFd, value: WaitValue) {
        self.push(view, fd, 0, value.into_slot(), NOT_OF_C);
    }

    /// Adds an entry with a plain word, and a value that owns the fd.
    pub(super) fn add_with_data(&mut self, view: &View, fd: WaitFd, data: usize, value: WaitValue) {
        self.push(view, fd, data, value.into_slot(), NOT_OF_C);
    }

    /// Adds an entry of a C program, whose value is two plain words.
    #[inline]
    pub(super) fn add_words(&mut self, view: &View, fd: WaitFd, data: usize, cleanup: usize) {
        self.push(view, fd, data, ValueSlot::default(), cleanup);
    }

    #[inline(always)]
    fn push(&mut self, view: &View, fd: WaitFd, data: usize, value: ValueSlot, cleanup: usize) {
        self.last_serial += 1;
        let record = Record::new(fd, data, self.last_serial);
        let at = self.list.length;
        if let Some(entry) = self.list.next_inline() {
            entry.record = record;
            entry.value.set(value);
            entry.cleanup = cleanup;
            view.show_added(at, &record);
        } else {
            self.push_more(view, Entry { record, value, cleanup });
        }
    }

    #[cold]
    #[inline(never)]
    fn push_more(&mut self, view: &View, entry: Entry) {
        let (at, record) = (self.list.len(), entry.record);
        self.list.push(entry);
        if let Some(long) = &mut self.long {
            long.is_unsettled = true;
            long.places.entry(record.key).or_default().push(at);
        } else if at + 1 > LONG {
            self.make_long();
        }
        view.show_added(at, &record);
    }

    /// Prepares a list that has become long, or whose entries have other places now.
    #[cold]
    #[inline(never)]
    fn make_long(&mut self) {
        let long = self.long.get_or_insert_default();
        long.places.clear();
        long.gone = 0;
        long.is_unsettled = true;
        long.is_out_of_order = !self.list.is_sorted_by_key(|entry| entry.record.serial);
        for (at, entry) in self.list.iter().enumerate() {
            if !entry.record.is_removed() {
                long.places.entry(entry.record.key).or_default().push(at);
            }
        }
    }

    /// Takes out the entries that are gone.
    #[cold]
    #[inline(never)]
    fn compact(&mut self) {
        self.list.retain(|entry| !entry.record.is_gone());
        if self.list.len() > LONG {
            self.make_long();
        } else {
            self.long = None;
        }
    }

    /// The place of the newest entry under `key` that is not removed.
    #[inline]
    fn newest_place(&self, key: WaitKey) -> Option<usize> {
        match &self.long {
            None => self.list.iter().rposition(|entry| entry.record.is_live(key)),
            Some(long) => long.places.get(&(key.0 as u64))?.last().copied(),
        }
    }

    /// The records of all entries, oldest first.
    pub(super) fn records(&self) -> Vec<Record> {
        self.list.iter().map(|entry| entry.record).collect()
    }

    /// Whether the next resume has to settle the entries.
    #[inline]
    pub(super) fn is_unsettled(&self) -> bool {
        if self.list.length == 0 {
            return false; // also an answer for the next lines, which take longer for it
        }
        let is_changed = |entry: &Entry| entry.record.fd_and_flags & (ADDED | REMOVED) != 0;
        match &self.long {
            None => self.list.iter().any(is_changed),
            Some(long) => long.is_unsettled,
        }
    }

    /// Sets the interest of the newest entry under `key`. Returns `None` if there is no entry, and otherwise whether
    /// the interest has changed.
    pub(super) fn set_interest(&mut self, view: &View, key: WaitKey, interest: Interest) -> Option<bool> {
        let record = &mut self.newest_mut(key)?.record;
        let (fd, old) = (record.fd(), *record);
        if fd.interest == interest {
            return Some(false);
        }
        *record = Record::new(WaitFd { interest, ..fd }, old.data(), old.serial);
        if !old.is_added() {
            let record = Record {
                fd_and_flags: old.fd_and_flags | REMOVED,
                ..old
            };
            self.list.push(Entry {
                record,
                ..Entry::default()
            });
            if let Some(long) = &mut self.long {
                long.is_out_of_order = true;
            }
        }
        if let Some(long) = &mut self.long {
            long.is_unsettled = true;
        }
        view.show_all(self);
        Some(true)
    }

    /// Removes the newest entry under `key` and hands out its value, which is absent while it is borrowed. Returns
    /// `None` if there is no entry.
    #[inline(always)]
    pub(super) fn remove(&mut self, view: &View, key: WaitKey) -> Option<Option<WaitValue>> {
        let last = self.list.length.wrapping_sub(1);
        let Some(newest) = self.list.inline.get_mut(last) else {
            return self.remove_any(view, key); // there is none, or they are on the heap
        };
        if !newest.record.is_live(key) {
            return self.remove_any(view, key);
        }
        let value = newest.value.take();
        if newest.record.is_added() {
            self.list.length = last;
            view.show_length(last);
        } else {
            newest.record.fd_and_flags |= REMOVED;
            view.show_flags(last, &newest.record);
        }
        Some(value)
    }

    /// As [`remove`](Self::remove), whatever the list is.
    #[cold]
    #[inline(never)]
    fn remove_any(&mut self, view: &View, key: WaitKey) -> Option<Option<WaitValue>> {
        if self.long.is_some() {
            return self.remove_from_long(view, key);
        }
        let at = self.newest_place(key)?;
        let entry = &mut self.list[at];
        if entry.record.is_added() {
            let value = self.list.remove(at).value.take();
            view.show_all(self);
            return Some(value);
        }
        entry.record.fd_and_flags |= REMOVED;
        view.show_flags(at, &entry.record);
        Some(entry.value.take())
    }

    fn remove_from_long(&mut self, view: &View, key: WaitKey) -> Option<Option<WaitValue>> {
        let long = self.long.as_mut()?;
        let places = long.places.get_mut(&(key.0 as u64))?;
        let at = places.pop()?;
        if places.is_empty() {
            long.places.remove(&(key.0 as u64));
        }
        long.is_unsettled = true;
        let entry = &mut self.list[at];
        let value = entry.value.take();
        entry.record.fd_and_flags |= REMOVED;
        view.show_flags(at, &entry.record);
        if entry.record.is_gone() {
            long.gone += 1;
            if 2 * long.gone > self.list.len() {
                self.compact();
                view.show_all(self);
            }
        }
        Some(value)
    }

    /// Takes the value out of the newest entry under `key`, if it is a `V`. Returns the value with the fd of the entry.
    pub(super) fn borrow_value<V: 'static>(&mut self, key: WaitKey) -> Option<(WaitFd, WaitValue)> {
        let entry = self.newest_mut(key)?;
        let value = entry.value.take()?;
        if !value.is::<V>() {
            entry.value.set(value.into_slot());
            return None;
        }
        Some((entry.record.fd(), value))
    }

    /// Puts a borrowed value back into its entry. Returns the value if the entry is gone.
    pub(super) fn return_value(&mut self, fd: WaitFd, value: WaitValue) -> Option<WaitValue> {
        // The fd is compared, too, because another thread may have borrowed the value of an older entry under the same
        // key.
        let is_owner = |entry: &&mut Entry| {
            entry.is_without_value() && entry.record.is_live(fd.key) && entry.record.raw_fd() == fd.fd
        };
        let list = &mut self.list;
        let entry = match &self.long {
            None => list.iter_mut().rev().find(is_owner),
            Some(long) => {
                let places = long.places.get(&(fd.key.0 as u64)).into_iter().flatten();
                let at = places.rev().find(|at| is_owner(&&mut list[**at])).copied();
                at.map(|at| &mut list[at])
            }
        };
        match entry {
            Some(entry) => {
                entry.value.set(value.into_slot());
                None
            }
            None => Some(value),
        }
    }

    /// The newest entry with a cleanup routine that is older than `serial` and not removed, with its routine.
    pub(super) fn cleanup_before(&self, serial: u64) -> Option<(Record, usize)> {
        let newer = match &self.long {
            Some(long) if !long.is_out_of_order => self.list.partition_point(|entry| entry.record.serial < serial),
            _ => self.list.len(),
        };
        let older = self.list[..newer].iter().rev();
        let live = older.filter(|entry| !entry.record.is_removed());
        live.filter(|entry| entry.record.serial < serial)
            .find(|entry| entry.cleanup != 0 && entry.cleanup != NOT_OF_C)
            .map(|entry| (entry.record, entry.cleanup))
    }

    pub(super) fn callback(&self) -> [usize; 2] {
        self.callback
    }

    pub(super) fn set_callback(&mut self, callback: [usize; 2], waker_of: WakerOfC) {
        self.callback = callback;
        self.waker_of = Some(waker_of);
    }

    pub(super) fn clear_callback(&mut self) {
        self.callback = [0; 2];
    }

    /// The function that makes a waker of the callback of a C program, if there is one.
    pub(super) fn waker_of(&self) -> Option<WakerOfC> {
        self.waker_of.filter(|_| self.callback[0] != 0)
    }

    pub(super) fn attachment(&mut self) -> &mut Option<Attachment> {
        &mut self.attachment
    }

    /// Settles the entries when the job is resumed: added entries are settled, and removed ones are gone.
    #[inline]
    pub(super) fn settle(&mut self, view: &View) {
        match &mut *self.list {
            [] => {}
            [only] if !only.record.is_removed() => {
                only.record.fd_and_flags &= !ADDED;
                view.show_flags(0, &only.record);
            }
            [_] => {
                drop(self.list.pop()); // a removed entry has no value, so this drops nothing of the user
                view.show_length(0);
            }
            _ => self.settle_more(view),
        }
    }

    fn settle_more(&mut self, view: &View) {
        if self.long.is_some() {
            self.settle_long();
            return view.show_all(self);
        }
        // From the end, so that nothing is moved that is taken out later.
        for at in (0..self.list.len()).rev() {
            let record = &mut self.list[at].record;
            if !record.is_removed() {
                record.fd_and_flags &= !ADDED;
            } else {
                self.list.remove(at); // as above
            }
        }
        view.show_all(self);
    }

    #[cold]
    #[inline(never)]
    fn settle_long(&mut self) {
        // A removed entry has no value, so this drops nothing of the user.
        let before = self.list.len();
        self.list.retain(|entry| !entry.record.is_removed());
        self.list
            .iter_mut()
            .for_each(|entry| entry.record.fd_and_flags &= !ADDED);
        if self.list.len() <= LONG {
            self.long = None;
        } else if self.list.len() < before {
            self.make_long();
        }
        if let Some(long) = &mut self.long {
            long.is_unsettled = false;
        }
    }

    /// Takes the newest entry out and hands out its value. The drop of the ctx uses this.
    pub(super) fn pop(&mut self) -> Option<Option<WaitValue>> {
        self.long = None; // all are taken out
        self.list.pop().map(|mut entry| entry.value.take())
    }

    /// Takes all entries out and hands out their values, newest first, if there are any. The words of a C program are
    /// no value.
    #[inline]
    pub(super) fn clear(&mut self, view: &View) -> Option<Vec<WaitValue>> {
        let is_one_of_c = self.list.length == 1 && self.list.inline[0].cleanup != NOT_OF_C;
        let values = if is_one_of_c {
            self.list.length = 0;
            None
        } else {
            Some(self.take_all())
        };
        view.show_length(0);
        values
    }

    #[cold]
    #[inline(never)]
    fn take_all(&mut self) -> Vec<WaitValue> {
        let mut values = Vec::new();
        while let Some(value) = self.pop() {
            values.extend(value);
        }
        values
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The fd of the newest entry under `key` that is not removed, with the data.
    pub(super) fn newest(&self, key: WaitKey) -> Option<(Fd, usize)> {
        let record = self.list[self.newest_place(key)?].record;
        Some((Fd(record.fd_and_flags), record.data()))
    }

    fn newest_mut(&mut self, key: WaitKey) -> Option<&mut Entry> {
        let at = self.newest_place(key)?;
        Some(&mut self.list[at])
    }
}

#[cfg(all(test, not(asyncjob_loom)))]
mod tests {
    use super::*;

    /// The entries, without any table: key, fd, and whether it was added and whether it was removed since the resume.
    #[derive(Default)]
    struct Model(Vec<(usize, RawFd, bool, bool)>);

    impl Model {
        fn remove(&mut self, key: usize) -> bool {
            let Some(at) = self.0.iter().rposition(|entry| entry.0 == key && !entry.3) else {
                return false;
            };
            if self.0[at].2 {
                self.0.remove(at);
            } else {
                self.0[at].3 = true;
            }
            true
        }

        fn settle(&mut self) {
            self.0.retain(|entry| !entry.3);
            self.0.iter_mut().for_each(|entry| entry.2 = false);
        }

        fn picked(&self, pick: fn(&(usize, RawFd, bool, bool)) -> bool) -> Vec<RawFd> {
            self.0
                .iter()
                .rev()
                .filter(|entry| pick(entry))
                .map(|entry| entry.1)
                .collect()
        }
    }

    /// A list that grows past `LONG` and shrinks again answers as one that is searched from end to end.
    #[test]
    fn a_long_list_is_what_a_short_one_would_be() {
        let (mut entries, mut model, view) = (Entries::new(), Model::default(), View::new());
        let mut random = 1u64;
        let mut below = |limit: u64| {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (random >> 33) % limit
        };
        let (mut longest, mut compacted) = (0, false);
        // Miri takes a quarter of a second for a step and its checks.
        let (steps, phase) = if cfg!(miri) { (600, 300) } else { (8_000, 500) };
        for step in 0..steps {
            let growing = step / phase % 2 == 0;
            let key = below(50) as usize;
            let gone = entries.long.as_ref().map_or(0, |long| long.gone);
            match below(100) {
                0 => {
                    entries.settle(&view);
                    model.settle();
                }
                act if (act < 60) == growing => {
                    let fd = step as RawFd;
                    entries.add_words(&view, WaitFd::new(WaitKey(key), fd, WaitFdOptions::new()), 0, key);
                    model.0.push((key, fd, true, false));
                }
                _ => assert_eq!(entries.remove(&view, WaitKey(key)).is_some(), model.remove(key)),
            }
            longest = longest.max(entries.list.len());
            compacted |= gone > 0 && entries.long.as_ref().is_some_and(|long| long.gone == 0);
            if cfg!(miri) && step % 16 != 0 {
                continue;
            }
            let records = entries.records();
            let fds = |records: Vec<WaitFd>| records.iter().map(|fd| fd.fd).collect::<Vec<_>>();
            let changes = changes(&records);
            assert_eq!(
                fds(changes.added),
                model.picked(|entry| entry.2 && !entry.3),
                "step {step}"
            );
            assert_eq!(fds(changes.removed), model.picked(|entry| entry.3), "step {step}");
            assert_eq!(
                fds(live(&records).map(Record::fd).collect()),
                model.picked(|entry| !entry.3)
            );
            let newest = model.0.iter().rfind(|entry| entry.0 == key && !entry.3);
            assert_eq!(
                entries.newest(WaitKey(key)).map(|(fd, _)| fd.raw()),
                newest.map(|entry| entry.1)
            );
            // Key 0 has no cleanup.
            let serial = below(entries.last_serial + 2);
            let counts = |record: &&Record| !record.is_removed() && record.serial < serial && record.key != 0;
            let expected = records.iter().rev().find(counts).map(Record::serial);
            let found = entries.cleanup_before(serial).map(|(record, _)| record.serial);
            assert_eq!(found, expected, "step {step}");
        }
        assert!(longest > 4 * LONG && compacted, "{longest}");
    }
}
