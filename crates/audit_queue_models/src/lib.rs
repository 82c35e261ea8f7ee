//! The audit queue of vault_core with loom's atomics in place of the standard ones. A crate of its own, so that nothing else is
//! compiled for it.

#[cfg(test)]
#[allow(dead_code)]
#[path = "../../vault_core/src/audit/queue.rs"]
mod queue;

/// What the queue uses of its neighbour: records of one word.
#[cfg(test)]
mod record {
    pub const RECORD_BYTES: usize = 8;
}
