//! A new origin for the trail of a copy: two databases that go on under one origin would be a fork.

use vault_core::audit::record::Action;

use crate::error::{TrailError, VaultError};
use crate::store::tree;
use crate::tree::head;
use crate::vault::call::Call;

/// Lets the tree go on under a new origin, and gives it. The row before names the old one.
pub fn begin_anew() -> Result<String, VaultError> {
    let call = Call::without_user(Action::NewTrail)?;
    let old = call.attempt(|_| Ok(tree::current_trail().ok_or(TrailError::Empty)?))?;
    call.record_change(200, None, Some(&old.origin))?;
    let (now, _) = head::read();
    Ok(tree::add_trail(&head::origin_prefix(), now.size(), None))
}
