//! What the hardware layer knows about the std thread it runs on: world, CPU, address space, current thread.

use super::space::AddressSpace;
use super::thread::Thread;
use super::world::World;
use crate::{Kernel, PageFault};
use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

/// A page-fault handler borrowed by [`with_address_space`].
type FaultHandler = *const (dyn Fn(PageFault) -> bool + 'static);

#[derive(Default)]
struct Context {
    world: Option<Arc<World>>,
    cpu: usize,
    space: Option<Arc<AddressSpace>>,
    fault: Option<FaultHandler>,
    current: Option<Arc<dyn Any + Send + Sync>>,
}

thread_local! {
    static CONTEXT: RefCell<Context> = RefCell::default();
}

/// Restores part of the context when a scope ends, also by unwinding.
struct Restore<F: FnMut()>(F);

impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn with<R>(f: impl FnOnce(&mut Context) -> R) -> R {
    CONTEXT.with_borrow_mut(f)
}

pub(super) fn world() -> Option<Arc<World>> {
    // The thread's locals may be gone when a destructor asks.
    CONTEXT.try_with(|c| c.borrow().world.clone()).ok().flatten()
}

pub(super) fn in_world<R>(world: Arc<World>, f: impl FnOnce() -> R) -> R {
    let mut before = with(|c| c.world.replace(world));
    let _restore = Restore(move || with(|c| c.world = before.take()));
    f()
}

pub(super) fn cpu() -> usize {
    with(|c| c.cpu)
}

pub(super) fn set_cpu(cpu: usize) {
    with(|c| c.cpu = cpu);
}

pub(super) fn space() -> Option<Arc<AddressSpace>> {
    with(|c| c.space.clone())
}

/// Sets the address space `user` works on; returns the previous one, to be dropped outside.
pub(super) fn set_space(space: Option<Arc<AddressSpace>>) -> Option<Arc<AddressSpace>> {
    with(|c| std::mem::replace(&mut c.space, space))
}

/// Forgets CPU, address space and current thread: the simulated thread is over.
pub(super) fn clear() {
    drop(with(|c| (c.space.take(), c.current.take())));
}

pub(super) fn current<K: Kernel>() -> Option<Arc<Thread<K>>> {
    with(|c| c.current.clone()).and_then(|t| t.downcast::<Thread<K>>().ok())
}

pub(super) fn set_current<K: Kernel>(thread: Option<Arc<Thread<K>>>) {
    let previous = with(|c| std::mem::replace(&mut c.current, thread.map(|t| t as _)));
    drop(previous);
}

/// Asks the fault handler of this thread; without one, every fault is final.
pub(super) fn page_fault(fault: PageFault) -> bool {
    match with(|c| c.fault) {
        // SAFETY: the pointer is set only inside `with_address_space`, which keeps the borrow alive and takes
        // the pointer back before it returns.
        Some(handler) => unsafe { (*handler)(fault) },
        None => match world().as_ref().and_then(|w| w.hooks.get()) {
            Some(hooks) => (hooks.page_fault)(fault),
            None => false,
        },
    }
}

/// Runs `f` with `space` as the current address space; faults of [`user`](super::user) copies go to
/// `fault_handler` (`true`: retry). For unit tests without a simulated machine; calls nest.
pub fn with_address_space<R>(
    space: &Arc<AddressSpace>,
    fault_handler: &dyn Fn(PageFault) -> bool,
    f: impl FnOnce() -> R,
) -> R {
    // SAFETY: only the lifetime changes, and `Restore` below takes the pointer out of reach before the
    // borrow ends, also when `f` unwinds.
    let handler = unsafe {
        std::mem::transmute::<*const (dyn Fn(PageFault) -> bool + '_), FaultHandler>(fault_handler)
    };
    let mut before = with(|c| (c.space.replace(space.clone()), c.fault.replace(handler)));
    let _restore = Restore(move || {
        let space = with(|c| {
            c.fault = before.1;
            std::mem::replace(&mut c.space, before.0.take())
        });
        drop(space);
    });
    f()
}

/// Runs `f` with `thread` as the current thread and its address space (if any) as the current one, without
/// a simulated machine: for unit tests of code that asks for the current thread and does not switch.
pub fn with_current<K: Kernel, R>(thread: &Arc<Thread<K>>, f: impl FnOnce() -> R) -> R {
    let space = thread.address_space();
    let mut before = with(|c| (c.current.replace(thread.clone()), std::mem::replace(&mut c.space, space)));
    let _restore = Restore(move || {
        let after = with(|c| {
            (
                std::mem::replace(&mut c.current, before.0.take()),
                std::mem::replace(&mut c.space, before.1.take()),
            )
        });
        drop(after);
    });
    f()
}
