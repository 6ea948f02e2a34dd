//! What happened: a hash of all of it, the faults that struck, and the lines for a reader who asks.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use crate::fault::{Fault, Rule};

/// Shared by all parts of one run.
#[derive(Clone, Debug, Default)]
pub struct Trace(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    now: i64,
    lines: Option<Vec<String>>,
    hits: BTreeMap<Fault, u64>,
    looks: BTreeMap<Rule, u64>,
    violation: Option<String>,
}

impl Trace {
    /// One that keeps its lines.
    pub fn telling() -> Self {
        Self(Rc::new(RefCell::new(Inner { lines: Some(vec![]), ..Inner::default() })))
    }

    pub fn clock(&self, now: i64) {
        self.0.borrow_mut().now = now;
    }

    /// Takes note of an event: its numbers always, its words if somebody reads them.
    pub fn note(&self, numbers: &[u64], words: impl FnOnce() -> String) {
        let mut inner = self.0.borrow_mut();
        let now = u64::try_from(inner.now).unwrap_or_default();
        for number in numbers.iter().chain([&now]) {
            inner.hash = (inner.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        if inner.lines.is_some() {
            let line = format!("{:>9.3} {}", std::time::Duration::from_millis(now).as_secs_f64(), words());
            inner.lines.get_or_insert_default().push(line);
        }
    }

    /// A fault struck.
    pub fn hit(&self, fault: Fault) {
        *self.0.borrow_mut().hits.entry(fault).or_default() += 1;
        self.note(&[7, fault.number()], || format!("fault: {fault:?}"));
    }

    /// A rule was looked at where it speaks of something.
    pub fn looked(&self, rule: Rule) {
        *self.0.borrow_mut().looks.entry(rule).or_default() += 1;
    }

    /// A rule was broken. The first counts.
    pub fn violated(&self, what: impl FnOnce() -> String) {
        let mut inner = self.0.borrow_mut();
        if inner.violation.is_none() {
            inner.violation = Some(what());
        }
    }

    pub fn violation(&self) -> Option<String> {
        self.0.borrow().violation.clone()
    }

    pub fn is_violated(&self) -> bool {
        self.0.borrow().violation.is_some()
    }

    pub fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    pub fn hits(&self) -> BTreeMap<Fault, u64> {
        self.0.borrow().hits.clone()
    }

    pub fn looks(&self) -> BTreeMap<Rule, u64> {
        self.0.borrow().looks.clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.borrow().lines.clone().unwrap_or_default()
    }
}
