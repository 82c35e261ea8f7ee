//! Reading the server's variables.

/// The value of a variable of the server.
macro_rules! variable {
    ($name:ident) => {
        // SAFETY: each process has its own copy, which only its single thread and its signal handlers write. It is a number,
        // a flag or a pointer, and it is copied here, not borrowed.
        unsafe { pgrx::pg_sys::$name }
    };
}
