//! The slots of a slab: which are in use, and which have guards.
//!
//! A slot is in one of three states, which its [`SlotBitmap`] keeps under the lock of the depot:
//!
//! | state | guard | memory | entered by |
//! |---|---|---|---|
//! | unguarded | some or none | no | a new slab, `give_group`, a failure to make guards |
//! | free | yes | no | `claim` of another slot of the group, or `release` |
//! | in use | yes | yes | `claim` |
//!
//! For each slot in use there is a [`Stack`](super::Stack): under a job, idle in a pool or the depot, or in quarantine.
//!
//! Guards are made and removed for a group of [`GROUP_SLOTS`] neighbours at a time, so either all slots of a group are
//! unguarded or none is. Claims take the lowest slot that is not in use. The slots that remain in use after a burst are
//! therefore neighbours, and the rest of the slab goes back to the kernel, page tables included.
//!
//! Guards are made under the lock. They are removed without it, as memory is given back without it: `take_emptied` and
//! `take_spare` claim all slots of a group, so that nobody else has one of them meanwhile, and `give_group` makes them
//! unguarded. A few groups keep their guards when their last slot is released: see [`MAX_SPARE_GROUPS`].

use std::io;

use super::depot::Depot;
use super::guard::{self, Guards};
use super::memory::Range;
use super::slab::{GROUP_SLOTS, Slab};

/// Which slots of a slab are unguarded, free and in use.
pub(super) struct SlotBitmap {
    pub(super) slab: &'static Slab,
    guards: Guards,
    /// One word for each group, one bit for each slot: the slot is in use. All words are 0 at first, so that a large
    /// slab pays only for the words that have been written. The only group of a small slab may have fewer slots than
    /// bits: the others stay 0.
    in_use: Vec<u64>,
    /// One bit for each group: all its slots are in use.
    full: Vec<u64>,
    /// One bit for each group: its guards exist.
    guarded: Vec<u64>,
    /// One bit for each group: its guards exist and take mappings.
    protected: Vec<u64>,
    /// All words of `full` below this index are all ones.
    lowest_word: usize,
    in_use_count: usize,
    /// How many groups have guards and no slot in use.
    spare_groups: usize,
}

/// A group whose slots are all claimed, until `give_group` releases them together.
pub(super) struct TakenGroup {
    pub(super) slab: &'static Slab,
    pub(super) group: usize,
    /// The kind of its guards.
    pub(super) guards: Guards,
}

const _: () = assert!(GROUP_SLOTS == u64::BITS as usize, "a group is a word of `in_use`");

/// How many groups may keep their guards with no slot in use. Without spare groups, a number of jobs that changes by
/// one could make and remove the guards of a group each time.
const MAX_SPARE_GROUPS: usize = 4;
impl SlotBitmap {
    /// Maps a slab: see [`Slab::map`].
    pub(super) fn map(
        depot: &'static Depot,
        before: usize,
        number: usize,
        retired: Option<&'static Slab>,
    ) -> io::Result<SlotBitmap> {
        let (slab, guards) = Slab::map(depot, before, number, retired)?;
        let groups = slab.slots().div_ceil(GROUP_SLOTS);
        Ok(SlotBitmap {
            slab,
            guards,
            in_use: vec![0; groups],
            full: vec![0; groups.div_ceil(64)],
            guarded: vec![0; groups.div_ceil(64)],
            protected: vec![0; groups.div_ceil(64)],
            lowest_word: 0,
            in_use_count: 0,
            spare_groups: 0,
        })
    }

    /// How many slots are in use.
    pub(super) fn in_use_count(&self) -> usize {
        self.in_use_count
    }

    /// The indices of the slots in use, lowest first.
    pub(super) fn slots_in_use(&self) -> impl Iterator<Item = usize> + '_ {
        let groups = self.in_use.iter().enumerate().filter(|(_, bits)| **bits != 0);
        groups.flat_map(|(group, bits)| {
            (0..GROUP_SLOTS)
                .filter(move |slot| bits & (1 << slot) != 0)
                .map(move |slot| group * GROUP_SLOTS + slot)
        })
    }

    /// Takes the lowest slot that is not in use, and returns its index. `None` when all slots are in use.
    ///
    /// # Errors
    ///
    /// When the guards of its group could not be made.
    pub(super) fn claim(&mut self) -> io::Result<Option<usize>> {
        let Some(group) = self.lowest_group() else {
            return Ok(None);
        };
        if !bit(&self.guarded, group) {
            self.install_guards(group)?;
        } else if self.in_use[group] == 0 {
            self.spare_groups -= 1;
        }
        let slot = self.in_use[group].trailing_ones() as usize;
        self.in_use[group] |= 1 << slot;
        if self.in_use[group].trailing_ones() as usize == self.slab.slots_of(group) {
            set(&mut self.full, group, true);
        }
        self.in_use_count += 1;
        Ok(Some(group * GROUP_SLOTS + slot))
    }

    /// Makes a slot free whose memory has been given back to the kernel.
    ///
    /// # Safety
    ///
    /// The caller must have claimed the slot, and must not use the slot after this call.
    pub(super) unsafe fn release(&mut self, index: usize) {
        let (group, slot) = (index / GROUP_SLOTS, index % GROUP_SLOTS);
        debug_assert!(self.in_use[group] & (1 << slot) != 0, "a slot released twice");
        self.in_use[group] &= !(1 << slot);
        set(&mut self.full, group, false);
        self.lowest_word = self.lowest_word.min(group / 64);
        self.in_use_count -= 1;
        if self.in_use[group] == 0 {
            self.spare_groups += 1;
        }
    }

    /// Of the groups whose last slots in use are those of `indices`, takes those that may not stay spare. The indices
    /// must be sorted, and claimed by the caller. They belong to the taken groups now, and the others are left over.
    pub(super) fn take_emptied(&mut self, indices: &[usize]) -> (Vec<TakenGroup>, Vec<usize>) {
        let mut spare = self.spare_groups;
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for same in indices.chunk_by(|a, b| a / GROUP_SLOTS == b / GROUP_SLOTS) {
            let group = same[0] / GROUP_SLOTS;
            let is_emptied = self.in_use[group].count_ones() as usize == same.len();
            if is_emptied && spare >= MAX_SPARE_GROUPS {
                taken.push(self.take_group(group));
            } else {
                spare += usize::from(is_emptied);
                left.extend(same);
            }
        }
        (taken, left)
    }

    /// Takes the groups that are spare and may not stay so: the highest ones.
    pub(super) fn take_spare(&mut self) -> Vec<TakenGroup> {
        let excess = self.spare_groups.saturating_sub(MAX_SPARE_GROUPS);
        if excess == 0 {
            return Vec::new();
        }
        let is_spare = |group: &usize| self.in_use[*group] == 0 && bit(&self.guarded, *group);
        let groups: Vec<usize> = (0..self.in_use.len()).rev().filter(is_spare).take(excess).collect();
        self.spare_groups -= groups.len();
        groups.into_iter().rev().map(|group| self.take_group(group)).collect()
    }

    /// Claims all slots of a group.
    fn take_group(&mut self, group: usize) -> TakenGroup {
        let slots = self.slab.slots_of(group);
        self.in_use_count += slots - self.in_use[group].count_ones() as usize;
        self.in_use[group] = u64::MAX >> (GROUP_SLOTS - slots);
        set(&mut self.full, group, true);
        TakenGroup {
            slab: self.slab,
            group,
            guards: if bit(&self.protected, group) {
                Guards::Protected
            } else {
                Guards::Advised
            },
        }
    }

    /// Makes the slots of a taken group unguarded. Its guards and its memory are gone, or the kernel has kept some of
    /// them. The next claim makes all its guards, also those that still exist.
    pub(super) fn give_group(&mut self, group: usize) {
        self.in_use_count -= self.slab.slots_of(group);
        self.in_use[group] = 0;
        set(&mut self.full, group, false);
        set(&mut self.guarded, group, false);
        self.lowest_word = self.lowest_word.min(group / 64);
        self.forget_mappings(group);
    }

    /// Unmaps the slab. What remains is a retired slab, for the next mapping of the depot.
    ///
    /// # Safety
    ///
    /// The caller must have released every slot that it has claimed.
    pub(super) unsafe fn unmap(mut self) -> &'static Slab {
        debug_assert_eq!(self.in_use_count, 0, "a slab with slots in use is unmapped");
        for group in 0..self.in_use.len() {
            self.forget_mappings(group);
        }
        // SAFETY: the caller's promise.
        unsafe { self.slab.unmap() };
        self.slab
    }

    /// The lowest group that has a slot which is not in use.
    fn lowest_group(&mut self) -> Option<usize> {
        self.lowest_word += self.full[self.lowest_word..]
            .iter()
            .position(|word| *word != u64::MAX)?;
        let group = self.lowest_word * 64 + self.full[self.lowest_word].trailing_ones() as usize;
        (group < self.in_use.len()).then_some(group)
    }

    #[cold]
    fn install_guards(&mut self, group: usize) -> io::Result<()> {
        let slots = self.slab.slots_of(group);
        let guards: [Range; GROUP_SLOTS] =
            std::array::from_fn(|slot| self.slab.guard(group * GROUP_SLOTS + slot.min(slots - 1)));
        let guards = &guards[..slots];
        // SAFETY: the group is unguarded, so no slot of it is in use.
        let kind = unsafe { self.guards.install(guards) }.inspect_err(|_| {
            // Those that were made are of no use, and take mappings. A guard that stays all the same does no harm.
            // SAFETY: as above.
            let _ = unsafe { self.guards.remove(self.slab.group(group)) };
        })?;
        set(&mut self.guarded, group, true);
        set(&mut self.protected, group, kind == Guards::Protected);
        Ok(())
    }

    /// Guards of a group are gone, or about to go. If they took mappings, these count no more.
    fn forget_mappings(&mut self, group: usize) {
        if bit(&self.protected, group) {
            set(&mut self.protected, group, false);
            guard::forget(self.slab.slots_of(group));
        }
    }
}

fn bit(words: &[u64], index: usize) -> bool {
    words[index / 64] & (1 << (index % 64)) != 0
}

fn set(words: &mut [u64], index: usize, value: bool) {
    let mask = 1 << (index % 64);
    if value {
        words[index / 64] |= mask;
    } else {
        words[index / 64] &= !mask;
    }
}
