//! What a policy asks beyond headers, numbered as far as it tells things apart: requests, control groups, names.
//!
//! A request is one answer: all requests for which the same predicates hold have one number.
//! A process is one answer: the innermost control group that is mentioned. A name is a question of its own.

use crate::ranges::Ranges;
use seg_lang::eval::{Endpoint, Request};
use seg_lang::kinds::{Http, cgroup_within, name_within, requests};
use seg_lang::policy::NamePattern;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Index into [`Atoms::names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

/// The numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Atoms {
    /// Each predicate on requests, and the numbers of those it holds for.
    predicates: Vec<(Http, Ranges)>,
    /// For each number from 1 on a request that has it; 0 is no request, and any that no predicate holds for.
    requests: Vec<Request>,
    /// For each number from 1 on the path of the control group; 0 is none of them.
    cgroups: Vec<String>,
    /// Sorted from their last label on, so that a form comes before those within it.
    names: Vec<NamePattern>,
}

impl Atoms {
    /// Numbers what is mentioned.
    ///
    /// Cost: the predicates times their paths.
    pub fn new(
        mentioned: &BTreeSet<Http>,
        cgroups: BTreeSet<String>,
        names: BTreeSet<NamePattern>,
    ) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by_cached_key(|of| {
            let labels: Vec<_> = of.name.rsplit('.').map(str::to_owned).collect();
            (labels, Reverse(of.below))
        });
        let mut atoms = Self { cgroups: cgroups.into_iter().collect(), names, ..Self::default() };
        let (methods, paths) = requests(mentioned);
        let mut numbers: BTreeMap<Vec<usize>, u128> = BTreeMap::from([(Vec::new(), 0)]);
        let mut held: Vec<BTreeSet<u128>> = vec![BTreeSet::new(); mentioned.len()];
        for path in paths {
            let any_method = |of: &Http| Http { method: None, path: of.path.clone() };
            let with_path =
                |method: &str| Request { method: method.to_owned(), path: path.clone() };
            let of_path: Vec<_> = mentioned
                .iter()
                .enumerate()
                .filter(|(_, of)| any_method(of).holds(&with_path("")))
                .collect();
            for method in &methods {
                let request = with_path(method);
                let holding = of_path.iter().filter(|(_, of)| of.holds(&request));
                let holding: Vec<usize> = holding.map(|(index, _)| *index).collect();
                let next = atoms.requests.len() as u128 + 1;
                let number = *numbers.entry(holding.clone()).or_insert(next);
                if number == next {
                    atoms.requests.push(request);
                }
                holding.iter().for_each(|&index| {
                    held[index].insert(number);
                });
            }
        }
        let ranges = |numbers: BTreeSet<u128>| {
            let each: Vec<_> = numbers.into_iter().map(|n| Ranges::new(n, n)).collect();
            Ranges::union(&each)
        };
        atoms.predicates = mentioned.iter().cloned().zip(held.into_iter().map(ranges)).collect();
        atoms
    }

    /// Largest number of a request.
    pub fn request_max(&self) -> u128 {
        self.requests.len() as u128
    }

    /// A request with this number; `None` for 0.
    pub fn request(&self, number: u128) -> Option<&Request> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.requests.get(index)
    }

    /// Every number of a request from 1 on, with a request that has it.
    pub fn requests(&self) -> impl Iterator<Item = (u128, &Request)> {
        (1..).zip(&self.requests)
    }

    /// The numbers of the requests for which a mentioned predicate holds.
    pub fn holds(&self, predicate: &Http) -> &Ranges {
        let index = self.predicates.binary_search_by(|(known, _)| known.cmp(predicate));
        &self.predicates[index.expect("the predicate is mentioned")].1
    }

    /// The number of a request.
    pub fn request_number(&self, request: Option<&Request>) -> u128 {
        let Some(request) = request else { return 0 };
        let all = Ranges::new(0, self.request_max());
        let left = self.predicates.iter().fold(all, |left, (predicate, held)| {
            if predicate.holds(request) {
                left.intersect(held)
            } else {
                left.intersect(&held.complement(self.request_max()))
            }
        });
        left.iter().next().expect("every request has a number").0
    }

    /// Largest number of a control group.
    pub fn cgroup_max(&self) -> u128 {
        self.cgroups.len() as u128
    }

    /// The control group with this number; `None` for 0.
    pub fn cgroup(&self, number: u128) -> Option<&str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.cgroups.get(index).map(String::as_str)
    }

    /// The numbers of a mentioned control group and of those below it.
    pub fn within(&self, path: &str) -> Ranges {
        let numbered = (1..).zip(&self.cgroups).filter(|(_, group)| cgroup_within(group, path));
        let each: Vec<_> = numbered.map(|(n, _)| Ranges::new(n, n)).collect();
        Ranges::union(&each)
    }

    /// The number of the control group of an end.
    pub fn cgroup_number(&self, end: &Endpoint) -> u128 {
        let Some(own) = end.cgroup.as_ref().filter(|_| end.is_self) else { return 0 };
        let numbered = (1..).zip(&self.cgroups).filter(|(_, group)| cgroup_within(own, group));
        numbered.max_by_key(|(_, group)| group.len()).map_or(0, |(number, _)| number)
    }

    /// The forms of names.
    pub fn names(&self) -> &[NamePattern] {
        &self.names
    }

    /// Every form of a name by number.
    pub fn name_ids(&self) -> impl Iterator<Item = NameId> + use<> {
        (0..u32::try_from(self.names.len()).expect("names are bounded")).map(NameId)
    }

    /// The form with this number.
    pub fn name(&self, id: NameId) -> &NamePattern {
        &self.names[id.0 as usize]
    }

    /// The number of a mentioned form.
    pub fn name_id(&self, pattern: &NamePattern) -> NameId {
        let index = self.names.iter().position(|known| known == pattern);
        let index = index.expect("the name is mentioned");
        NameId(u32::try_from(index).expect("names are bounded"))
    }

    /// Whether a name of this form resolves to an end.
    pub fn resolves(&self, id: NameId, end: &Endpoint) -> bool {
        end.names.iter().any(|name| name_within(&exactly(name), self.name(id)))
    }

    /// The narrowest other form that holds all names of this one.
    pub fn wider(&self, id: NameId) -> Option<NameId> {
        let narrow = self.name(id);
        let wider = self.name_ids().filter(|&of| of != id && name_within(narrow, self.name(of)));
        wider.max_by_key(|&of| self.name(of).name.len())
    }

    /// Names for an end that has exactly these forms.
    ///
    /// INVARIANT: with a form come those that [`Self::wider`] leads to.
    pub fn example_names(&self, known: &BTreeSet<NameId>) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for &id in known {
            let pattern = self.name(id);
            if !pattern.below {
                names.insert(pattern.name.clone());
                continue;
            }
            let narrower = |&of: &NameId| of != id && name_within(self.name(of), pattern);
            if known.iter().any(narrower) {
                continue;
            }
            let hosts = (1..).map(|n| if n == 1 { "host".to_owned() } else { format!("host-{n}") });
            let mut free = hosts.map(|host| format!("{host}.{}", pattern.name));
            let mentioned = |name: &String| self.names.contains(&exactly(name));
            names.extend(free.find(|name| !mentioned(name)));
        }
        names
    }
}

fn exactly(name: &str) -> NamePattern {
    NamePattern { name: name.to_owned(), below: false }
}
