//! A value set once in each world.

use super::world::world;
use std::sync::OnceLock;

/// A cell that is written at most once and then only read.
///
/// The kernel's statics live as long as the test process, but each [`World`](super::World) is a machine that
/// boots anew. So a `Once` has one value for each world: a list that only grows.
pub struct Once<T> {
    head: OnceLock<Box<Node<T>>>,
}

struct Node<T> {
    world: u64,
    value: OnceLock<T>,
    next: OnceLock<Box<Node<T>>>,
}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self { head: OnceLock::new() }
    }

    /// The value; `init` makes it if nobody has. Others wait meanwhile; `init` must not use the cell.
    pub fn call_once(&self, init: impl FnOnce() -> T) -> &T {
        let id = world().id;
        let mut link = &self.head;
        loop {
            let node = link
                .get_or_init(|| Box::new(Node { world: id, value: OnceLock::new(), next: OnceLock::new() }));
            if node.world == id {
                return node.value.get_or_init(init);
            }
            link = &node.next;
        }
    }

    /// The value, if it is there.
    pub fn get(&self) -> Option<&T> {
        let id = world().id;
        let mut link = &self.head;
        while let Some(node) = link.get() {
            if node.world == id {
                return node.value.get();
            }
            link = &node.next;
        }
        None
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::World;

    #[test]
    fn each_world_has_its_own_value() {
        static ONCE: Once<u32> = Once::new();
        World::new(1).enter(|| {
            assert_eq!(ONCE.get(), None);
            assert_eq!(*ONCE.call_once(|| 1), 1);
            assert_eq!(*ONCE.call_once(|| unreachable!()), 1);
        });
        World::new(1).enter(|| {
            assert_eq!(ONCE.get(), None);
            assert_eq!(*ONCE.call_once(|| 2), 2);
            assert_eq!(ONCE.get(), Some(&2));
        });
    }
}
