//! The nonces that bound tokens carry: one of this backend, one of its transaction in progress.

use std::cell::{OnceCell, RefCell};

use vault_core::identity::nonce;

use crate::pg::session;

/// The nonce of this backend.
pub fn session() -> String {
    thread_local! {
        static NONCE: OnceCell<String> = const { OnceCell::new() };
    }
    NONCE.with(|own| own.get_or_init(nonce::random).clone())
}

/// The nonce of this transaction.
pub fn transaction() -> String {
    thread_local! {
        static NONCE: RefCell<(u32, String)> = const { RefCell::new((0, String::new())) };
    }
    NONCE.with_borrow_mut(|(transaction, own)| {
        let current = session::local_transaction();
        if *transaction != current || own.is_empty() {
            (*transaction, *own) = (current, nonce::random());
        }
        own.clone()
    })
}
