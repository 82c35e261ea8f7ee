//! The vault's own paths across users. Policies let them through by a flag of this process that no SQL can set.

use std::cell::Cell;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs `work` with the maintenance policies in effect. An error in it unwinds and takes the flag back.
pub fn run<T>(work: impl FnOnce() -> T) -> T {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _guard = Guard;
    work()
}

/// What the policies ask.
pub fn is_active() -> bool {
    DEPTH.get() > 0
}
