//! Sets of requests as decision diagrams: one level a variable, one edge a class of its values.
//!
//! Nodes are shared and reduced, so two sets are equal exactly when their nodes are, and a set is empty exactly when its
//! node is [`EMPTY`]. What would grow beyond the budget is an error, never a guess.

use std::cmp::Ordering;
use std::collections::HashMap;

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

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    variable: usize,
    edges: Box<[Set]>,
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
            edges: Box::default(),
        };
        Self {
            widths,
            nodes: vec![terminal(), terminal()],
            shared: HashMap::new(),
            known: HashMap::new(),
            left: budget,
        }
    }

    /// The requests whose value of a variable is in one of these classes.
    pub(crate) fn where_in(&mut self, variable: usize, classes: &Bits) -> Result<Set, Exhausted> {
        let width = self.widths.get(variable).copied().unwrap_or_default();
        let edges = (0..width)
            .map(|class| if classes.has(class) { FULL } else { EMPTY })
            .collect();
        self.node(variable, edges)
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
            let class = node.edges.iter().position(|edge| *edge != EMPTY)?;
            *classes.get_mut(node.variable)? = class;
            at = *node.edges.get(class)?;
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
            at = node.edges.get(class).copied().unwrap_or(EMPTY);
        }
        true
    }

    /// The classes of a variable that occur in a set.
    pub(crate) fn values(&mut self, set: Set, variable: usize) -> Result<Bits, Exhausted> {
        let mut found = Bits::none();
        let width = self.widths.get(variable).copied().unwrap_or_default();
        for class in 0..width {
            let here = self.where_in(variable, &Bits::one(class))?;
            if self.and(set, here)? != EMPTY {
                found.insert(class);
            }
        }
        Ok(found)
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
                let mut all = if always { FULL } else { EMPTY };
                for edge in &node.edges {
                    all = if always {
                        self.and(all, *edge)?
                    } else {
                        self.or(all, *edge)?
                    };
                }
                all
            }
            Ordering::Less => {
                let mut edges = Vec::with_capacity(node.edges.len());
                for edge in &node.edges {
                    edges.push(self.forget_in(*edge, variable, always, done)?);
                }
                self.node(node.variable, edges.into())?
            }
        };
        done.insert(set, result);
        Ok(result)
    }

    fn node(&mut self, variable: usize, edges: Box<[Set]>) -> Result<Set, Exhausted> {
        if let Some(first) = edges.first()
            && edges.iter().all(|edge| edge == first)
        {
            return Ok(*first);
        }
        let node = Node { variable, edges };
        if let Some(known) = self.shared.get(&node) {
            return Ok(*known);
        }
        self.left = self.left.checked_sub(node.edges.len()).ok_or(Exhausted)?;
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
        let width = self.widths.get(variable).copied().unwrap_or_default();
        self.left = self.left.checked_sub(width).ok_or(Exhausted)?;
        let mut edges = Vec::with_capacity(width);
        for class in 0..width {
            let a = if of_a == variable { self.edge(a, class) } else { a };
            let b = if of_b == variable { self.edge(b, class) } else { b };
            edges.push(self.apply(operation, a, b)?);
        }
        let result = self.node(variable, edges.into())?;
        self.known.insert(key, result);
        Ok(result)
    }

    fn variable(&self, set: Set) -> usize {
        self.nodes
            .get(index(set))
            .map_or(usize::MAX, |node| node.variable)
    }

    fn edge(&self, set: Set, class: usize) -> Set {
        self.nodes
            .get(index(set))
            .and_then(|node| node.edges.get(class))
            .copied()
            .unwrap_or(EMPTY)
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
        assert_eq!(all.values(left, 0).unwrap(), bits(&[0, 2]));
        let somewhere = all.forget(left, 2, false).unwrap();
        assert_eq!(somewhere, ab);
        assert_eq!(all.forget(left, 2, true).unwrap(), EMPTY);
    }

    #[test]
    fn a_budget_ends_with_an_error() {
        let mut all = Diagrams::new(vec![8; 8], 8);
        let a = all.where_in(0, &bits(&[1])).unwrap();
        let b = all.where_in(1, &bits(&[1]));
        assert_eq!(b.and_then(|b| all.and(a, b)), Err(Exhausted));
    }
}
