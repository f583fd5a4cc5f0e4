//! The held tasks by number, in pages: numbers are given in ascending order, so pages are full, and a
//! task costs little more than itself.

use super::Slot;
use crate::entry::EntryId;
use std::collections::BTreeMap;

/// Slots of a page. A task that waits for long keeps a page alive by itself: small pages bound that.
const PAGE: u64 = 16;

/// The held tasks of a queue.
#[derive(Debug, Default)]
pub(super) struct Slots {
    pages: BTreeMap<u64, Box<Page>>,
    len: usize,
}

#[derive(Debug, Default)]
struct Page {
    slots: [Option<Slot>; PAGE as usize],
    used: u64,
}

fn place(id: EntryId) -> (u64, usize) {
    (id.0 / PAGE, (id.0 % PAGE) as usize)
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: &EntryId) -> Option<&Slot> {
        let (page, slot) = place(*id);
        self.pages.get(&page)?.slots[slot].as_ref()
    }

    pub(super) fn get_mut(&mut self, id: &EntryId) -> Option<&mut Slot> {
        let (page, slot) = place(*id);
        self.pages.get_mut(&page)?.slots[slot].as_mut()
    }

    /// Puts a task under a number that is free.
    pub(super) fn insert(&mut self, id: EntryId, slot: Slot) {
        let (page, number) = place(id);
        let page = self.pages.entry(page).or_default();
        if page.slots[number].replace(slot).is_none() {
            page.used += 1;
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, id: &EntryId) {
        let (number, slot) = place(*id);
        let Some(page) = self.pages.get_mut(&number) else { return };
        if page.slots[slot].take().is_some() {
            page.used -= 1;
            self.len -= 1;
            if page.used == 0 {
                self.pages.remove(&number);
            }
        }
    }

    /// All held tasks in the order of their numbers.
    pub(super) fn values(&self) -> impl Iterator<Item = &Slot> {
        self.pages.values().flat_map(|page| page.slots.iter().flatten())
    }
}
