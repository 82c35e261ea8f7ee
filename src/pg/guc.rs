//! What pgrx does not offer for settings: hiding the KEK setting's value, and reserving the prefix.

use std::cell::RefCell;
use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use vault_core::crypto::secret::SecretText;
use zeroize::Zeroize;

const MASK: &CStr = c"********";

static KEK: GucSetting<Option<std::ffi::CString>> = GucSetting::<Option<std::ffi::CString>>::new(None);

thread_local! {
    static GIVEN: RefCell<Option<SecretText>> = const { RefCell::new(None) };
}

/// Defines vault_ext.kek. Its check hook takes the value away and leaves `********` in its place, so that SHOW,
/// pg_settings and the memory of every backend hold the mask alone.
pub fn define_kek() {
    // SAFETY: the hook is guarded and follows the protocol of check hooks (see there).
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"vault_ext.kek",
            c"The keyring itself.",
            c"Prefer vault_ext.kek_file: superusers can read the configuration file's text through pg_file_settings.",
            &KEK,
            GucContext::Postmaster,
            GucFlags::SUPERUSER_ONLY,
            Some(take_value),
            None,
            None,
        );
    }
}

/// Whether vault_ext.kek is set; its value is the mask.
pub fn kek_is_set() -> bool {
    KEK.get().is_some_and(|value| !value.is_empty())
}

/// The keyring given by vault_ext.kek, once: it is not kept.
pub fn take_kek() -> Option<SecretText> {
    GIVEN.with(|given| given.borrow_mut().take())
}

#[pg_guard]
unsafe extern "C-unwind" fn take_value(
    value: *mut *mut std::ffi::c_char,
    _extra: *mut *mut std::ffi::c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: `value` points to NULL or to a NUL-terminated string in memory that we may replace by other memory from the
    // same allocator (malloc on 15, guc_malloc from 16 on). The old string is cleared; it is overwritten in place where it
    // is long enough for the mask, which spares the allocation.
    unsafe {
        let text = *value;
        if text.is_null() || *text == 0 || CStr::from_ptr(text) == MASK {
            return true;
        }
        let length = CStr::from_ptr(text).count_bytes();
        let bytes = std::slice::from_raw_parts_mut(text.cast::<u8>(), length);
        if pg_sys::process_shared_preload_libraries_in_progress {
            GIVEN.with(|given| *given.borrow_mut() = Some(SecretText::new(bytes.to_vec())));
        }
        bytes.zeroize();
        let mask = MASK.to_bytes();
        let shown = mask.len().min(length);
        bytes[..shown].copy_from_slice(&mask[..shown]);
    }
    true
}

/// Makes every other setting with this prefix an error.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: the server copies the string.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}
