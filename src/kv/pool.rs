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
        let mut free = self.free.borrow_mut();
        let kept = free.len().checked_sub(count)?;
        let mut pages = free.split_off(kept);
        pages.reverse();
        Some(Lease {
            pages,
            free: Rc::clone(&self.free),
        })
    }
}

impl Lease {
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.free.borrow_mut().extend(self.pages.drain(..).rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Any order of leases and drops: no page is shared, none is lost, and a lease is refused
        /// exactly when too few pages are free.
        #[test]
        fn pages_have_one_owner(total in 0usize..64, ops in prop::collection::vec((0usize..20, any::<bool>()), 1..200)) {
            let pool = PagePool::new(total);
            let mut leases: Vec<Lease> = Vec::new();
            for (n, take) in ops {
                if take {
                    let free = pool.free();
                    match pool.lease(n) {
                        Some(lease) => {
                            prop_assert_eq!(lease.pages().len(), n);
                            leases.push(lease);
                        }
                        None => prop_assert!(n > free),
                    }
                } else if !leases.is_empty() {
                    leases.swap_remove(n % leases.len());
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
