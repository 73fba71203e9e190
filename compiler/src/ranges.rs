//! Sets of numbers.
//!
//! INVARIANT: ranges ascend, do not overlap and do not touch, so equal sets are equal values.

/// A set of numbers as closed ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// The numbers `first..=last`; `first` is at most `last`.
    pub fn new(first: u128, last: u128) -> Self {
        assert!(first <= last, "a range that runs backwards");
        Self(vec![(first, last)])
    }

    /// The numbers in any of `sets`.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all: Vec<_> = sets.into_iter().flat_map(|set| set.0.iter().copied()).collect();
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The numbers in both sets.
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut i, mut j, mut common) = (0, 0, Vec::new());
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                common.push((first, last));
            }
            if a.1 <= b.1 { i += 1 } else { j += 1 }
        }
        Self(common)
    }

    /// The numbers that are not in the other set.
    pub fn without(&self, other: &Self) -> Self {
        self.intersect(&other.complement(u128::MAX))
    }

    /// The numbers of `0..=max` that are not in the set.
    pub fn complement(&self, max: u128) -> Self {
        let (mut next, mut rest) = (Some(0), Vec::new());
        for &(first, last) in &self.0 {
            if let Some(from) = next.filter(|&from| from < first) {
                rest.push((from, first - 1));
            }
            next = last.checked_add(1);
        }
        rest.extend(next.filter(|&from| from <= max).map(|from| (from, max)));
        Self(rest)
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u128) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&number))
    }

    /// How many numbers there are, or the greatest number if that is too many.
    pub fn size(&self) -> u128 {
        let each = self.0.iter().map(|(first, last)| (last - first).saturating_add(1));
        each.fold(0, u128::saturating_add)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The closed ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }
}
