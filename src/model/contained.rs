//! Calling a library that panics on some damaged files, without its message on stderr.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// What `call` returns, `None` if it panics. Panics elsewhere are reported as ever.
pub(super) fn contained<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                usual(info);
            }
        }));
    });
    CONTAINED.set(true);
    // The callers drop what a panic may have left half done.
    let returned = catch_unwind(AssertUnwindSafe(call)).ok();
    CONTAINED.set(false);
    returned
}
