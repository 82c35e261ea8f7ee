//! The keys of many users for a service, in one statement: as if each had been asked for alone, but all or none.

use std::collections::HashSet;

use vault_core::audit::record::{Action, Record};

use super::call::{self, Call};
use super::grants;
use super::key::UserKey;
use crate::alarms::limits;
use crate::audit::submit_many::write_all;
use crate::error::VaultError;
use crate::identity;
use crate::pg::{session, spi, subxact, wait};

/// A longer list is refused: its locks and keys would be held too long.
pub const MOST_USERS: usize = 1_000;

/// A user of the list, once.
pub struct Listed {
    /// Of the first element that names the user, counted from 1.
    position: usize,
    pub user: String,
    /// The grant that lets the service have the key, and the key. Filled in place: a key that is moved leaves a copy behind.
    opened: Option<(i64, UserKey)>,
}

impl Listed {
    /// The user's key: of each user in what `get_of_each` gives.
    pub fn key(&self) -> Option<&UserKey> {
        self.opened.as_ref().map(|(_, key)| key)
    }
}

/// The keys of users who have granted that to a role which the caller holds, in the order of the list. If one of them is refused,
/// nothing is released: the trail gets a row for each refused user, and the error names the first one.
pub fn get_of_each(users: Vec<String>) -> Result<Vec<Listed>, VaultError> {
    if users.len() > MOST_USERS {
        return Err(VaultError::ListTooLong { given: users.len(), most: MOST_USERS });
    }
    let mut list = distinct(users);
    if list.is_empty() {
        return Ok(list);
    }
    let mut call = Call::for_service(Action::Fetch, String::new())?;
    call.refuse_on_many_nodes().map_err(|error| call.failed(error))?;
    open_all(&mut call, &mut list)?;
    let rows: Vec<_> = list
        .iter()
        .filter_map(|listed| {
            let (grant, key) = listed.opened.as_ref()?;
            call.concern(listed.user.clone());
            call.by_grant(*grant);
            Some(call.as_row(200, Some(key.id()), None).encoded())
        })
        .collect();
    write_all(&rows)?;
    Ok(list)
}

fn distinct(users: Vec<String>) -> Vec<Listed> {
    let mut seen = HashSet::new();
    let first_times = users.into_iter().zip(1..).filter(|(user, _)| seen.insert(user.clone()));
    first_times.map(|(user, position)| Listed { position, user, opened: None }).collect()
}

/// Opens every key. Looks at each user even after a refusal, so that one error names all that are refused.
fn open_all(call: &mut Call, list: &mut [Listed]) -> Result<(), VaultError> {
    let (mut refused, mut rows) = (Vec::new(), Vec::new());
    // Two calls with the same users lock grants in the same order.
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_unstable_by(|a, b| list[*a].user.cmp(&list[*b].user));
    let opened = subxact::catch(|| {
        for index in order {
            wait::check_for_interrupts();
            let listed = &mut list[index];
            call.concern(listed.user.clone());
            match open(call) {
                Ok(opened) => listed.opened = Some(opened),
                Err(error) => {
                    let (action, status, context) = call.failure(&error);
                    rows.push(Record { action, ..call.as_row(status, None, Some(context)) }.encoded());
                    refused.push((listed.position, error));
                }
            }
        }
    });
    if let Err(raised) = opened {
        spi::forget_plans();
        limits::note_failure(|alarm| call.raise_alarm(alarm));
        let (status, context) = call::describe_raised(&raised);
        rows.push(Record { action: Action::FailedFetch, ..call.as_row(status, None, Some(&context)) }.encoded());
        write_all(&rows)?;
        raised.rethrow();
    }
    write_all(&rows)?;
    refused.sort_unstable_by_key(|(position, _)| *position);
    let positions = refused.iter().map(|(position, _)| *position).collect();
    match refused.into_iter().next() {
        Some((position, error)) => Err(VaultError::InList { position, error: Box::new(error), refused: positions }),
        None => Ok(()),
    }
}

/// What a call for the user that `call` concerns does before it writes its row.
fn open(call: &Call) -> Result<(i64, UserKey), VaultError> {
    if !session::has_row_security() {
        return Err(VaultError::RowSecurityOff);
    }
    let user = call.user();
    limits::admit(user, |alarm| call.raise_alarm(alarm))?;
    identity::in_force(Some(user), || {
        call.look_for_honey()?;
        grants::open_by_grant(call, user)
    })
}

/// A user's row as another server has it.
#[cfg(feature = "bench")]
pub struct Copy<'a> {
    pub user: &'a str,
    pub key_version: i32,
    pub kek_id: &'a str,
    pub wrapped_mk: &'a str,
}

/// Writes the row of a fetch for each of them if the user's row still is the same. Refused for the first that is not. Only
/// `make bench` calls this: it is what keys from standbys would cost the primary (decision 14).
#[cfg(feature = "bench")]
pub fn check_and_record(copies: &[Copy<'_>]) -> Result<(), VaultError> {
    use super::key::KeyId;
    use crate::store::vaults::{self, Found};

    let mut call = Call::for_service(Action::Fetch, String::new())?;
    let mut rows = Vec::with_capacity(copies.len());
    let checked = subxact::catch(|| {
        for copy in copies {
            call.concern(copy.user.to_owned());
            limits::admit(copy.user, |alarm| call.raise_alarm(alarm))?;
            identity::in_force(Some(copy.user), || {
                call.look_for_honey()?;
                match vaults::find(copy.user, false) {
                    Found::Open(now)
                        if now.key_version == copy.key_version
                            && now.kek_id == copy.kek_id
                            && now.wrapped_mk == copy.wrapped_mk =>
                    {
                        Ok(())
                    }
                    _ => Err(VaultError::ChangedMeanwhile),
                }
            })?;
            let key = KeyId { kek_id: copy.kek_id, key_version: copy.key_version };
            rows.push(call.as_row(200, Some(key), None).encoded());
        }
        Ok::<_, VaultError>(())
    });
    checked.unwrap_or_else(|raised| raised.rethrow())?;
    Ok(write_all(&rows)?)
}
