//! What a task needs of an executor, what an executor has, and the fits between them.
//!
//! Executors announce what they have; a queue declares classes of needs, the fits; a task states its
//! needs and goes to the smallest fit that covers them. An executor serves every fit that it covers.

use crate::limits::NAME_BYTES_MAX;
use crate::task::InvalidOption;
use crate::token::Fit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most labels, and the most custom resources, of one task, fit or executor.
pub const NEEDS_MAX: usize = 16;

/// An amount of everything that can be short: what a task needs, what a fit covers or what an executor has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Thousandths of a processor core.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_milli: u32,
    /// Memory, in MiB.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_mib: u32,
    /// Countable things by name, such as `gpu`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, u32>,
    /// Properties that an executor has or has not, such as `zone-a`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Needs {
    /// Whether nothing is needed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this is enough for `other`.
    pub fn covers(&self, other: &Self) -> bool {
        let has = |(name, amount): (&String, &u32)| self.resources.get(name).is_some_and(|mine| mine >= amount);
        self.cpu_milli >= other.cpu_milli
            && self.memory_mib >= other.memory_mib
            && other.resources.iter().filter(|(_, amount)| **amount > 0).all(has)
            && other.labels.is_subset(&self.labels)
    }

    /// How many times `one` fits into this; `u32::MAX` where `one` takes up nothing. Labels are not used up.
    pub fn times(&self, one: &Self) -> u32 {
        let times = |mine: u32, each: u32| mine.checked_div(each).unwrap_or(u32::MAX);
        let custom =
            one.resources.iter().map(|(name, each)| times(self.resources.get(name).copied().unwrap_or(0), *each));
        custom.fold(times(self.cpu_milli, one.cpu_milli).min(times(self.memory_mib, one.memory_mib)), u32::min)
    }

    /// What is left once `one` is taken `times` times; never under nothing.
    #[must_use]
    pub fn less(&self, one: &Self, times: u32) -> Self {
        let less = |mine: u32, each: u32| mine.saturating_sub(each.saturating_mul(times));
        let resources = self
            .resources
            .iter()
            .map(|(name, mine)| (name.clone(), less(*mine, one.resources.get(name).copied().unwrap_or(0))))
            .collect();
        Self {
            cpu_milli: less(self.cpu_milli, one.cpu_milli),
            memory_mib: less(self.memory_mib, one.memory_mib),
            resources,
            labels: self.labels.clone(),
        }
    }

    /// Checks names and numbers of what is listed.
    ///
    /// # Errors
    /// [`InvalidOption`] names `needs`.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let is_name = |name: &String| {
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(|c| c.is_control() || c == ',')
        };
        let names_ok = self.resources.keys().chain(&self.labels).all(is_name);
        if self.resources.len() > NEEDS_MAX || self.labels.len() > NEEDS_MAX || !names_ok {
            let reason = format!(
                "must list at most {NEEDS_MAX} resources and {NEEDS_MAX} labels, each with a name of 1 to \
                 {NAME_BYTES_MAX} bytes without commas and control characters"
            );
            return Err(InvalidOption { option: "needs", reason });
        }
        Ok(())
    }

    /// A measure by which fits are sorted: scarce things first.
    fn size(&self) -> (u64, usize, u32, u32) {
        let custom = self.resources.values().map(|n| u64::from(*n)).sum();
        (custom, self.labels.len(), self.memory_mib, self.cpu_milli)
    }
}

/// A class of needs that a queue declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Written")]
#[schemars(!from)]
pub struct FitEntry {
    /// Its name, a token of the lanes' subjects.
    pub name: Fit,
    /// What one of its tasks may use at most.
    #[serde(default, skip_serializing_if = "Needs::is_none")]
    pub covers: Needs,
}

/// As it may be written: a bare name covers nothing in particular.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Name(Fit),
    Entry {
        name: Fit,
        #[serde(default)]
        covers: Needs,
    },
}

impl From<Written> for FitEntry {
    fn from(written: Written) -> Self {
        match written {
            Written::Name(name) => Self { name, covers: Needs::default() },
            Written::Entry { name, covers } => Self { name, covers },
        }
    }
}

impl Default for FitEntry {
    /// `any`, for tasks that state no needs.
    fn default() -> Self {
        Self { name: Fit::default(), covers: Needs::default() }
    }
}

/// The smallest of these fits that covers the needs; `None` where there is none. `any` is always among them.
pub fn smallest_fit<'a>(fits: &'a [FitEntry], needs: &Needs) -> Option<&'a FitEntry> {
    fits.iter().filter(|fit| fit.covers.covers(needs)).min_by_key(|fit| (fit.covers.size(), fit.name.as_str()))
}

/// The fits that an executor with these means covers, the narrowest first: that is the order in which it
/// takes tasks, so that what few can run does not wait behind what all can.
pub fn fits_of<'a>(fits: &'a [FitEntry], means: &Needs) -> Vec<&'a FitEntry> {
    let mut mine: Vec<&FitEntry> = fits.iter().filter(|fit| means.covers(&fit.covers)).collect();
    mine.sort_by_key(|fit| (std::cmp::Reverse(fit.covers.size()), fit.name.as_str()));
    mine
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn needs(cpu_milli: u32, memory_mib: u32, gpu: u32, labels: &[&str]) -> Needs {
        let resources = if gpu > 0 { [("gpu".to_owned(), gpu)].into() } else { BTreeMap::new() };
        Needs { cpu_milli, memory_mib, resources, labels: labels.iter().map(|l| (*l).to_owned()).collect() }
    }

    fn fit(name: &str, covers: Needs) -> FitEntry {
        FitEntry { name: Fit::new(name).expect("valid"), covers }
    }

    fn declared() -> Vec<FitEntry> {
        vec![
            FitEntry::default(),
            fit("large", needs(8_000, 16_384, 0, &[])),
            fit("small", needs(1_000, 1_024, 0, &[])),
            fit("gpu", needs(1_000, 1_024, 1, &[])),
        ]
    }

    #[test]
    fn needs_go_to_the_smallest_fit_that_covers_them() {
        let chosen = |needs: &Needs| smallest_fit(&declared(), needs).map(|fit| fit.name.to_string());
        assert_eq!(chosen(&Needs::default()).as_deref(), Some("any"));
        assert_eq!(chosen(&needs(500, 1_024, 0, &[])).as_deref(), Some("small"));
        assert_eq!(chosen(&needs(500, 1_025, 0, &[])).as_deref(), Some("large"));
        assert_eq!(chosen(&needs(0, 0, 1, &[])).as_deref(), Some("gpu"));
        assert_eq!(chosen(&needs(0, 0, 0, &["zone-a"])), None);
    }

    #[test]
    fn an_executor_serves_what_it_covers_the_narrowest_first() {
        let names = |means: &Needs| fits_of(&declared(), means).iter().map(|f| f.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&needs(16_000, 65_536, 2, &[])), ["gpu", "large", "small", "any"]);
        assert_eq!(names(&Needs::default()), ["any"]);
    }

    #[test]
    fn a_bare_name_declares_a_fit() {
        let read: Vec<FitEntry> = serde_json::from_str(r#"["any",{"name":"gpu","covers":{"resources":{"gpu":1}}}]"#)
            .expect("both forms are read");
        assert_eq!(read, [FitEntry::default(), fit("gpu", needs(0, 0, 1, &[]))]);
    }

    proptest! {
        #[test]
        fn what_is_taken_as_often_as_it_fits_leaves_less_than_one(
            cpu in 0..9_000u32, memory in 0..9_000u32, gpu in 0..9u32, each_cpu in 1..3_000u32, each_gpu in 0..3u32,
        ) {
            let (means, one) = (needs(cpu, memory, gpu, &[]), needs(each_cpu, 100, each_gpu, &[]));
            let times = means.times(&one);
            prop_assert_eq!(means.less(&one, times).times(&one), 0);
            prop_assert_eq!(times > 0, means.covers(&one));
        }
    }
}
