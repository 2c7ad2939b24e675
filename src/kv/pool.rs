//! Which pages of the slab are free. A lease returns its pages when it is dropped.

use std::cell::RefCell;
use std::rc::Rc;

/// The pool of page numbers `0..total`.
#[derive(Debug, Clone)]
pub struct PagePool {
    free: Rc<RefCell<Vec<u32>>>,
    total: usize,
}

/// Pages owned by one row. Not `Clone`: a page has one owner.
#[derive(Debug)]
pub struct Lease {
    pages: Vec<u32>,
    free: Rc<RefCell<Vec<u32>>>,
}

impl PagePool {
    pub fn new(total: usize) -> Self {
        // Reversed, so that the lowest page numbers are leased first.
        let free = (0..total as u32).rev().collect();
        Self {
            free: Rc::new(RefCell::new(free)),
            total,
        }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn free(&self) -> usize {
        self.free.borrow().len()
    }

    pub fn used(&self) -> usize {
        self.total - self.free()
    }

    /// `count` pages, or `None` (and nothing taken) when fewer are free.
    pub fn lease(&self, count: usize) -> Option<Lease> {
        let mut lease = Lease {
            pages: Vec::new(),
            free: Rc::clone(&self.free),
        };
        lease.grow(count).then_some(lease)
    }
}

impl Lease {
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Takes `count` pages more, or says false (and takes nothing) when fewer are free.
    pub fn grow(&mut self, count: usize) -> bool {
        let mut free = self.free.borrow_mut();
        let Some(kept) = free.len().checked_sub(count) else {
            return false;
        };
        self.pages.extend(free.drain(kept..).rev());
        true
    }

    /// Gives all pages back.
    pub fn release(&mut self) {
        self.free.borrow_mut().extend(self.pages.drain(..).rev());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Any order of leases, growth and drops: no page is shared, none is lost, and pages are
        /// refused exactly when too few are free.
        #[test]
        fn pages_have_one_owner(total in 0usize..64, ops in prop::collection::vec((0usize..20, 0..4), 1..200)) {
            let pool = PagePool::new(total);
            let mut leases: Vec<Lease> = Vec::new();
            for (n, op) in ops {
                let free = pool.free();
                let some = n % leases.len().max(1);
                match op {
                    0 => match pool.lease(n) {
                        Some(lease) => {
                            prop_assert_eq!(lease.pages().len(), n);
                            leases.push(lease);
                        }
                        None => prop_assert!(n > free),
                    },
                    1 if !leases.is_empty() => {
                        let before = leases[some].pages().to_vec();
                        prop_assert_eq!(leases[some].grow(n), n <= free);
                        prop_assert!(leases[some].pages().starts_with(&before));
                        prop_assert_eq!(leases[some].pages().len(), before.len() + if n <= free { n } else { 0 });
                    }
                    2 if !leases.is_empty() => leases[some].release(),
                    3 if !leases.is_empty() => drop(leases.swap_remove(some)),
                    _ => {}
                }
                let held: Vec<u32> = leases.iter().flat_map(|l| l.pages().to_vec()).collect();
                let unique: HashSet<u32> = held.iter().copied().collect();
                prop_assert_eq!(unique.len(), held.len());
                prop_assert!(held.iter().all(|&p| (p as usize) < total));
                prop_assert_eq!(pool.used(), held.len());
            }
            drop(leases);
            prop_assert_eq!(pool.free(), total);
        }
    }
}
