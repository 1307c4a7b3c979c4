//! The wait fds of a ctx: the entries, their changes since the last resume, and the values that own the fds.
//!
//! The table in the documentation of the parent module has the states of an entry. Everything here runs under the lock
//! of the ctx. So nothing here runs or drops what belongs to the user: values are handed out to the caller, who drops
//! them after the lock is released.

use std::any::Any;

use super::{Changes, Interest, WaitFd, WaitKey};

/// A value of the user, which may own an fd.
pub(super) type Value = Box<dyn Any + Send>;

/// The entries of a ctx, oldest first.
#[derive(Default)]
pub(super) struct Entries {
    list: Vec<Entry>,
    /// The serial of the entry that was added last.
    last_serial: u64,
}

struct Entry {
    /// Increases with each entry that is added. A change of the interest keeps it.
    serial: u64,
    fd: WaitFd,
    /// Whether the entry was added since the last resume.
    added: bool,
    /// Whether the entry was removed since the last resume. Its value has been given away then.
    removed: bool,
    value: Option<Value>,
}

/// An entry that is not removed, as a driver sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveFd {
    /// Identifies the entry in its ctx. A newer entry has a higher serial.
    pub(crate) serial: u64,
    pub(crate) fd: WaitFd,
    /// Whether the entry was added, or its interest changed, since the last resume.
    pub(crate) added: bool,
}

impl Entry {
    fn is_live(&self, key: WaitKey) -> bool {
        !self.removed && self.fd.key == key
    }

    fn copied<V: Copy + 'static>(&self) -> Option<(WaitFd, V)> {
        let value = self.value.as_ref()?.downcast_ref::<V>()?;
        Some((self.fd, *value))
    }
}

impl Entries {
    pub(super) const fn new() -> Self {
        Entries {
            list: Vec::new(),
            last_serial: 0,
        }
    }

    pub(super) fn add(&mut self, fd: WaitFd, value: Value) {
        self.last_serial += 1;
        self.list.push(Entry {
            serial: self.last_serial,
            fd,
            added: true,
            removed: false,
            value: Some(value),
        });
    }

    /// The fd that was added last under `key` and not removed.
    pub(super) fn fd(&self, key: WaitKey) -> Option<WaitFd> {
        self.newest(key).map(|entry| entry.fd)
    }

    /// Sets the interest of the newest entry under `key`. Returns `None` if there is no entry, and otherwise whether
    /// the interest has changed.
    pub(super) fn set_interest(&mut self, key: WaitKey, interest: Interest) -> Option<bool> {
        let entry = self.newest_mut(key)?;
        if entry.fd.interest == interest {
            return Some(false);
        }
        let (serial, old) = (entry.serial, entry.fd);
        entry.fd.interest = interest;
        if !entry.added {
            entry.added = true;
            self.list.push(Entry {
                serial,
                fd: old,
                added: false,
                removed: true,
                value: None,
            });
        }
        Some(true)
    }

    /// Removes the newest entry under `key` and hands out its value, which is absent while it is borrowed. Returns
    /// `None` if there is no entry.
    pub(super) fn remove(&mut self, key: WaitKey) -> Option<Option<Value>> {
        let at = self.list.iter().rposition(|entry| entry.is_live(key))?;
        if self.list[at].added {
            return Some(self.list.remove(at).value);
        }
        self.list[at].removed = true;
        Some(self.list[at].value.take())
    }

    /// Takes the value out of the newest entry under `key`, if it is a `V`. Returns the value with the fd of the entry.
    pub(super) fn borrow_value<V: 'static>(&mut self, key: WaitKey) -> Option<(WaitFd, Value)> {
        let entry = self.newest_mut(key)?;
        let value = entry.value.take_if(|value| value.is::<V>())?;
        Some((entry.fd, value))
    }

    /// Puts a borrowed value back into its entry. Returns the value if the entry is gone.
    pub(super) fn return_value(&mut self, fd: WaitFd, value: Value) -> Option<Value> {
        // The fd is compared, too, because another thread may have borrowed the value of an older entry under the same
        // key.
        let is_owner = |entry: &&mut Entry| entry.is_live(fd.key) && entry.fd.fd == fd.fd && entry.value.is_none();
        match self.list.iter_mut().rev().find(is_owner) {
            Some(entry) => entry.value.replace(value),
            None => Some(value),
        }
    }

    pub(super) fn copied_value<V: Copy + 'static>(&self, key: WaitKey) -> Option<(WaitFd, V)> {
        self.newest(key)?.copied()
    }

    /// Copies of the values that are a `V`, newest first.
    pub(super) fn copied_values<V: Copy + 'static>(&self) -> Vec<(WaitFd, V)> {
        let live = self.list.iter().rev().filter(|entry| !entry.removed);
        live.filter_map(Entry::copied).collect()
    }

    /// Every entry that is not removed, newest first.
    pub(super) fn live(&self) -> impl Iterator<Item = LiveFd> {
        let live = self.list.iter().rev().filter(|entry| !entry.removed);
        live.map(|entry| LiveFd {
            serial: entry.serial,
            fd: entry.fd,
            added: entry.added,
        })
    }

    /// The changes since the last resume. An entry that was added and removed since then is in the list no more.
    pub(super) fn changes(&self) -> Changes {
        let newest = |pick: fn(&Entry) -> bool| {
            let picked = self.list.iter().rev().filter(|entry| pick(entry));
            picked.map(|entry| entry.fd).collect()
        };
        Changes {
            added: newest(|entry| entry.added && !entry.removed),
            removed: newest(|entry| entry.removed && !entry.added),
        }
    }

    /// Settles the entries when the job is resumed: added entries are settled, and removed ones are gone.
    pub(super) fn settle(&mut self) {
        self.list.retain(|entry| !entry.removed); // a removed entry has no value, so this drops nothing of the user
        self.list.iter_mut().for_each(|entry| entry.added = false);
    }

    /// Takes the newest entry out and hands out its value. The drop of the ctx uses this.
    pub(super) fn pop(&mut self) -> Option<Option<Value>> {
        self.list.pop().map(|entry| entry.value)
    }

    fn newest(&self, key: WaitKey) -> Option<&Entry> {
        self.list.iter().rev().find(|entry| entry.is_live(key))
    }

    fn newest_mut(&mut self, key: WaitKey) -> Option<&mut Entry> {
        self.list.iter_mut().rev().find(|entry| entry.is_live(key))
    }
}
