//! Honey users: users that no application has. Whoever asks for the key of one has taken user ids from somewhere.

use std::cell::RefCell;
use std::collections::HashSet;

use super::memory::watch;
use crate::pg::xact::{self, Callbacks};
use crate::store::{catalog, honey};

thread_local! {
    /// The honey users of this database, and the number of changes after which they were read.
    static USERS: RefCell<Option<(u64, HashSet<String>)>> = const { RefCell::new(None) };
    static CHANGED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

static CALLBACKS: Callbacks = Callbacks { committed: announce, aborted: forget, ..Callbacks::NONE };

/// Whether that user is one. Reads them once for each backend, and again after a change.
pub fn is_marked(user: &str) -> bool {
    let Some(watch) = watch() else { return false };
    let changes = watch.honey_changes();
    USERS.with_borrow_mut(|users| {
        // Other nodes do not tell of their changes.
        if users.as_ref().is_none_or(|(read, _)| *read != changes) || catalog::has_nodes() {
            let all = if catalog::is_of_0_3() { honey::all() } else { Vec::new() };
            *users = Some((changes, all.into_iter().collect()));
        }
        users.as_ref().is_some_and(|(_, users)| users.contains(user))
    })
}

/// This transaction has changed them: when it has committed, all backends read them again.
pub fn note_change() {
    xact::listen(&CALLBACKS);
    CHANGED.set(true);
    USERS.take();
}

fn announce() {
    if CHANGED.take()
        && let Some(watch) = watch()
    {
        watch.note_honey_change();
    }
}

fn forget() {
    // What was read in between may be what was rolled back.
    if CHANGED.take() {
        let _ = USERS.try_with(|users| users.try_borrow_mut().map(|mut users| users.take()));
    }
}
