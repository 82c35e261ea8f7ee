//! What a trigger function knows, taken out of the server's structures.

use std::ffi::CStr;

use pgrx::prelude::*;

/// A row that an AFTER DELETE trigger saw go.
pub struct DeletedRow {
    data: *mut pg_sys::TriggerData,
}

impl DeletedRow {
    /// None unless called as AFTER DELETE … FOR EACH ROW.
    ///
    /// # Safety
    /// `fcinfo` is that of a function called by the server.
    pub(super) unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Option<Self> {
        // SAFETY: the context is checked to be trigger data before it is used as such.
        unsafe {
            let context = (*fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let data: *mut pg_sys::TriggerData = context.cast();
            let event = (*data).tg_event;
            let is_delete = event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_DELETE;
            let is_row = event & pg_sys::TRIGGER_EVENT_ROW != 0;
            let is_after = event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
            (is_delete && is_row && is_after).then_some(Self { data })
        }
    }

    /// The trigger's only argument; None if it has none or more than one.
    pub fn argument(&self) -> Option<&CStr> {
        // SAFETY: tgargs holds tgnargs NUL-terminated strings.
        unsafe {
            let trigger = (*self.data).tg_trigger;
            ((*trigger).tgnargs == 1).then(|| CStr::from_ptr(*(*trigger).tgargs))
        }
    }

    /// A column as text, as its type's output function writes it. `Err` if there is no such column, `Ok(None)` for NULL.
    pub fn column(&self, name: &CStr) -> Result<Option<String>, ()> {
        // SAFETY: in a row-level DELETE trigger tg_trigtuple is the old row and tg_relation its table; SPI_fnumber and
        // SPI_getvalue need no SPI connection.
        unsafe {
            let descriptor = (*(*self.data).tg_relation).rd_att;
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            if number <= 0 {
                return Err(());
            }
            let value = pg_sys::SPI_getvalue((*self.data).tg_trigtuple, descriptor, number);
            Ok((!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned()))
        }
    }
}
