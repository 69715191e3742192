//! Sets of requests as decision diagrams: one level a variable, one edge a class of its values.
//!
//! Nodes are shared and reduced, so two sets are equal exactly when their nodes are, and a set is empty exactly when its
//! node is [`EMPTY`]. What would grow beyond the budget is an error, never a guess.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::bits::Bits;

/// A set: a node of a [`Diagrams`].
pub(crate) type Set = u32;

/// No request.
pub(crate) const EMPTY: Set = 0;
/// Every request.
pub(crate) const FULL: Set = 1;

/// The variables, the nodes, and what was already worked out.
#[derive(Debug)]
pub(crate) struct Diagrams {
    /// How many classes each variable has.
    widths: Vec<usize>,
    nodes: Vec<Node>,
    shared: HashMap<Node, Set>,
    known: HashMap<(Operation, Set, Set), Set>,
    /// How many edges may still be made.
    left: usize,
}

/// Most classes lead to the same set, so only those that do not are kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    variable: usize,
    /// Where most classes lead; of several the first by number.
    most: Set,
    /// The classes that lead elsewhere, in order.
    others: Box<[(usize, Set)]>,
}

impl Node {
    fn edge(&self, class: usize) -> Set {
        self.others
            .binary_search_by_key(&class, |(class, _)| *class)
            .ok()
            .and_then(|at| self.others.get(at))
            .map_or(self.most, |(_, set)| *set)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Operation {
    And,
    Or,
    Minus,
}

/// The budget is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exhausted;

impl Diagrams {
    pub(crate) fn new(widths: Vec<usize>, budget: usize) -> Self {
        let terminal = || Node {
            variable: usize::MAX,
            most: EMPTY,
            others: Box::default(),
        };
        Self {
            widths,
            nodes: vec![terminal(), terminal()],
            shared: HashMap::new(),
            known: HashMap::new(),
            left: budget,
        }
    }

    /// How many variables there are.
    pub(crate) fn variables(&self) -> usize {
        self.widths.len()
    }

    /// Leaves so many edges of the budget at most, and gives how many are withheld.
    pub(crate) fn withhold_beyond(&mut self, edges: usize) -> usize {
        let withheld = self.left.saturating_sub(edges);
        self.left -= withheld;
        withheld
    }

    /// Takes back what was withheld.
    pub(crate) fn give_back(&mut self, edges: usize) {
        self.left = self.left.saturating_add(edges);
    }

    /// The requests whose value of a variable is in one of these classes.
    pub(crate) fn where_in(&mut self, variable: usize, classes: &Bits) -> Result<Set, Exhausted> {
        let others = (0..self.width(variable))
            .filter(|class| classes.has(*class))
            .map(|class| (class, FULL))
            .collect();
        self.node(variable, EMPTY, others)
    }

    pub(crate) fn and(&mut self, a: Set, b: Set) -> Result<Set, Exhausted> {
        self.apply(Operation::And, a, b)
    }

    pub(crate) fn or(&mut self, a: Set, b: Set) -> Result<Set, Exhausted> {
        self.apply(Operation::Or, a, b)
    }

    pub(crate) fn minus(&mut self, a: Set, b: Set) -> Result<Set, Exhausted> {
        self.apply(Operation::Minus, a, b)
    }

    /// One request of a set, as a class for each variable: of the classes that can be, the first.
    pub(crate) fn first(&self, set: Set) -> Option<Vec<usize>> {
        if set == EMPTY {
            return None;
        }
        let mut classes = vec![0; self.widths.len()];
        let mut at = set;
        while at != FULL {
            let node = self.nodes.get(index(at))?;
            let class = (0..self.width(node.variable)).find(|class| node.edge(*class) != EMPTY)?;
            *classes.get_mut(node.variable)? = class;
            at = node.edge(class);
        }
        Some(classes)
    }

    /// Whether a request, as a class for each variable, is in a set.
    #[cfg(test)]
    pub(crate) fn contains(&self, set: Set, classes: &[usize]) -> bool {
        let mut at = set;
        while at != FULL {
            let Some(node) = self.nodes.get(index(at)).filter(|_| at != EMPTY) else {
                return false;
            };
            let class = classes.get(node.variable).copied().unwrap_or_default();
            at = node.edge(class);
        }
        true
    }

    /// The classes of a variable that occur in a set.
    pub(crate) fn values(&self, set: Set, variable: usize) -> Bits {
        let mut found = Bits::none();
        let mut seen = HashSet::new();
        let mut queue = vec![set];
        while let Some(at) = queue.pop() {
            if at == EMPTY || !seen.insert(at) {
                continue;
            }
            match self.nodes.get(index(at)).filter(|node| node.variable <= variable) {
                Some(node) if node.variable == variable => {
                    for class in (0..self.width(variable)).filter(|class| node.edge(*class) != EMPTY) {
                        found.insert(class);
                    }
                }
                Some(node) => {
                    if node.others.len() < self.width(node.variable) {
                        queue.push(node.most);
                    }
                    queue.extend(node.others.iter().map(|(_, set)| *set));
                }
                // Below the variable's level every class leads to the same.
                None => (0..self.width(variable)).for_each(|class| found.insert(class)),
            }
        }
        found
    }

    /// The set without regard to a variable: what is in it for some value, or (`always`) for every value.
    pub(crate) fn forget(&mut self, set: Set, variable: usize, always: bool) -> Result<Set, Exhausted> {
        let mut done = HashMap::new();
        self.forget_in(set, variable, always, &mut done)
    }

    fn forget_in(
        &mut self,
        set: Set,
        variable: usize,
        always: bool,
        done: &mut HashMap<Set, Set>,
    ) -> Result<Set, Exhausted> {
        if set == EMPTY || set == FULL {
            return Ok(set);
        }
        if let Some(known) = done.get(&set) {
            return Ok(*known);
        }
        let Some(node) = self.nodes.get(index(set)).cloned() else {
            return Ok(EMPTY);
        };
        let result = match node.variable.cmp(&variable) {
            Ordering::Greater => set,
            Ordering::Equal => {
                let has_most = node.others.len() < self.width(variable);
                let mut all = if has_most {
                    node.most
                } else if always {
                    FULL
                } else {
                    EMPTY
                };
                for (_, edge) in &node.others {
                    all = if always {
                        self.and(all, *edge)?
                    } else {
                        self.or(all, *edge)?
                    };
                }
                all
            }
            Ordering::Less => {
                let most = self.forget_in(node.most, variable, always, done)?;
                let mut others = Vec::with_capacity(node.others.len());
                for (class, edge) in &node.others {
                    others.push((*class, self.forget_in(*edge, variable, always, done)?));
                }
                self.node(node.variable, most, others)?
            }
        };
        done.insert(set, result);
        Ok(result)
    }

    fn width(&self, variable: usize) -> usize {
        self.widths.get(variable).copied().unwrap_or_default()
    }

    /// The node whose classes lead to `most`, but for these, in order.
    fn node(&mut self, variable: usize, most: Set, mut others: Vec<(usize, Set)>) -> Result<Set, Exhausted> {
        let width = self.width(variable);
        // INVARIANT: one form for one function, so that equal sets have equal nodes.
        let mut counts: BTreeMap<Set, usize> = BTreeMap::new();
        for (_, set) in &others {
            *counts.entry(*set).or_default() += 1;
        }
        *counts.entry(most).or_default() += width - others.len().min(width);
        let favourite = counts
            .iter()
            .max_by_key(|(set, count)| (**count, std::cmp::Reverse(**set)))
            .map_or(most, |(set, _)| *set);
        if favourite == most {
            others.retain(|(_, set)| *set != most);
        } else {
            let known: BTreeMap<usize, Set> = others.into_iter().collect();
            others = (0..width)
                .map(|class| (class, known.get(&class).copied().unwrap_or(most)))
                .filter(|(_, set)| *set != favourite)
                .collect();
        }
        if others.is_empty() {
            return Ok(favourite);
        }
        let node = Node {
            variable,
            most: favourite,
            others: others.into(),
        };
        if let Some(known) = self.shared.get(&node) {
            return Ok(*known);
        }
        self.left = self.left.checked_sub(1 + node.others.len()).ok_or(Exhausted)?;
        let set = u32::try_from(self.nodes.len()).map_err(|_| Exhausted)?;
        self.nodes.push(node.clone());
        self.shared.insert(node, set);
        Ok(set)
    }

    fn apply(&mut self, operation: Operation, a: Set, b: Set) -> Result<Set, Exhausted> {
        match (operation, a, b) {
            (Operation::And | Operation::Minus, EMPTY, _)
            | (Operation::And, _, EMPTY)
            | (Operation::Minus, _, FULL) => return Ok(EMPTY),
            (Operation::Or, FULL, _) | (Operation::Or, _, FULL) => return Ok(FULL),
            (Operation::And, FULL, other)
            | (Operation::And, other, FULL)
            | (Operation::Or, EMPTY, other)
            | (Operation::Or, other, EMPTY) => return Ok(other),
            (Operation::Minus, _, EMPTY) => return Ok(a),
            (Operation::And | Operation::Or, _, _) if a == b => return Ok(a),
            (Operation::Minus, _, _) if a == b => return Ok(EMPTY),
            (Operation::And | Operation::Or | Operation::Minus, _, _) => {}
        }
        let key = if operation == Operation::Minus || a < b {
            (operation, a, b)
        } else {
            (operation, b, a)
        };
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let (of_a, of_b) = (self.variable(a), self.variable(b));
        let variable = of_a.min(of_b);
        let (most_of_a, others_of_a) = self.edges(a, of_a == variable);
        let (most_of_b, others_of_b) = self.edges(b, of_b == variable);
        let mut classes: Vec<usize> = others_of_a
            .iter()
            .chain(&others_of_b)
            .map(|(class, _)| *class)
            .collect();
        classes.sort_unstable();
        classes.dedup();
        self.left = self.left.checked_sub(1 + classes.len()).ok_or(Exhausted)?;
        let most = self.apply(operation, most_of_a, most_of_b)?;
        let mut others = Vec::with_capacity(classes.len());
        let (mut at_a, mut at_b) = (others_of_a.iter().peekable(), others_of_b.iter().peekable());
        for class in classes {
            let a = at_a
                .next_if(|(own, _)| *own == class)
                .map_or(most_of_a, |(_, set)| *set);
            let b = at_b
                .next_if(|(own, _)| *own == class)
                .map_or(most_of_b, |(_, set)| *set);
            others.push((class, self.apply(operation, a, b)?));
        }
        let result = self.node(variable, most, others)?;
        self.known.insert(key, result);
        Ok(result)
    }

    fn variable(&self, set: Set) -> usize {
        self.nodes
            .get(index(set))
            .map_or(usize::MAX, |node| node.variable)
    }

    /// Where the classes of a node lead; a set of a lower level leads to itself.
    fn edges(&self, set: Set, is_here: bool) -> (Set, Vec<(usize, Set)>) {
        match self.nodes.get(index(set)).filter(|_| is_here) {
            Some(node) => (node.most, node.others.to_vec()),
            None => (set, Vec::new()),
        }
    }
}

fn index(set: Set) -> usize {
    usize::try_from(set).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(numbers: &[usize]) -> Bits {
        let mut bits = Bits::none();
        for number in numbers {
            bits.insert(*number);
        }
        bits
    }

    #[test]
    fn sets_obey_the_laws_of_sets() {
        let mut all = Diagrams::new(vec![3, 2, 4], 100_000);
        let a = all.where_in(0, &bits(&[0, 2])).unwrap();
        let b = all.where_in(1, &bits(&[1])).unwrap();
        let c = all.where_in(2, &bits(&[0, 1, 2])).unwrap();
        let ab = all.and(a, b).unwrap();
        let abc = all.or(ab, c).unwrap();
        // (ab ∪ c) \ c ⊆ ab, and what is taken away is gone.
        let left = all.minus(abc, c).unwrap();
        let outside = all.minus(left, ab).unwrap();
        assert_eq!(outside, EMPTY);
        let both = all.and(left, c).unwrap();
        assert_eq!(both, EMPTY);
        assert_eq!(all.first(left), Some(vec![0, 1, 3]));
        assert!(all.contains(left, &[2, 1, 3]) && !all.contains(left, &[1, 1, 3]));
        assert_eq!(all.minus(FULL, EMPTY).unwrap(), FULL);
        let never = all.minus(a, FULL).unwrap();
        assert_eq!(never, EMPTY);
        assert_eq!(all.values(left, 0), bits(&[0, 2]));
        assert_eq!(all.values(ab, 2), bits(&[0, 1, 2, 3]));
        let somewhere = all.forget(left, 2, false).unwrap();
        assert_eq!(somewhere, ab);
        assert_eq!(all.forget(left, 2, true).unwrap(), EMPTY);
    }

    #[test]
    fn a_budget_ends_with_an_error() {
        let mut all = Diagrams::new(vec![8; 8], 3);
        let a = all.where_in(0, &bits(&[1])).unwrap();
        let b = all.where_in(1, &bits(&[1]));
        assert_eq!(b.and_then(|b| all.and(a, b)), Err(Exhausted));
    }
}
