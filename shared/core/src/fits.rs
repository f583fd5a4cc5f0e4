//! The fits of a queue: names to small numbers, and sets of them.

use crate::entry::FitId;
use jetlane_schemas::Fit;

/// A set of fits of the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FitSet(u16);

impl FitSet {
    /// The set of these bits.
    #[cfg(test)]
    pub(crate) const fn of(bits: u16) -> Self {
        Self(bits)
    }

    pub(crate) fn insert(&mut self, fit: FitId) {
        self.0 |= 1 << fit.place();
    }

    pub(crate) fn contains(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }
}

/// The fits of a queue by name: declared ones, and others as they are met.
#[derive(Debug)]
pub(crate) struct FitTable(Vec<Fit>);

impl Default for FitTable {
    fn default() -> Self {
        Self(vec![Fit::default()])
    }
}

impl FitTable {
    /// The fit's number; `None` once [`crate::entry::FITS_MAX`] others are known.
    pub(crate) fn number(&mut self, fit: &str) -> Option<FitId> {
        if let Some(known) = self.find(fit) {
            return Some(known);
        }
        let number = FitId::new(self.0.len())?;
        self.0.push(Fit::new(fit).ok()?);
        Some(number)
    }

    /// The fit's number, if it has one.
    pub(crate) fn find(&self, fit: &str) -> Option<FitId> {
        self.0.iter().position(|known| known.as_str() == fit).and_then(FitId::new)
    }

    /// All numbers that are in use.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = FitId> + use<> {
        (0..self.0.len()).filter_map(FitId::new)
    }

    pub(crate) fn name(&self, fit: FitId) -> Option<&Fit> {
        self.0.get(fit.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::FITS_MAX;

    #[test]
    fn a_name_keeps_its_number_and_names_beyond_the_table_have_none() {
        let mut table = FitTable::default();
        assert_eq!(table.number("any"), FitId::new(0));
        for n in 1..FITS_MAX {
            assert_eq!(table.number(&format!("fit{n}")), FitId::new(n));
        }
        assert_eq!(table.number("fit1"), FitId::new(1));
        assert_eq!(table.number("one-too-many"), None);
        assert_eq!(table.number("not a token"), None);
    }
}
