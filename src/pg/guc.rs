//! What pgrx does not offer for settings: hiding the values of the KEK and of a token, and reserving the prefix.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};
use vault_core::crypto::secret::SecretText;
use zeroize::Zeroize;

const MASK: &CStr = c"********";

static KEK: GucSetting<Option<std::ffi::CString>> = GucSetting::<Option<std::ffi::CString>>::new(None);

thread_local! {
    static GIVEN: RefCell<Option<SecretText>> = const { RefCell::new(None) };
    static TOKEN_CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Defines vault_ext.kek. Its check hook takes the value away and leaves `********` in its place, so that SHOW,
/// pg_settings and the memory of every backend hold the mask alone.
pub fn define_kek() {
    // SAFETY: no panic leaves the hook, which is guarded, and it replaces the value only as the server allows (see there).
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"vault_ext.kek",
            c"The keyring itself.",
            c"Shown as ********. Prefer vault_ext.kek_file: superusers can read the configuration file's text through pg_file_settings.",
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

static TOKEN: GucSetting<Option<std::ffi::CString>> = GucSetting::<Option<std::ffi::CString>>::new(None);

/// Defines vault_ext.token, which SQL can write and not read: its show hook gives the mask to SHOW, current_setting and
/// pg_settings. Only a session or a transaction can set it. A value from the startup packet, from ALTER ROLE or ALTER DATABASE
/// would come back after DISCARD ALL.
pub fn define_token() {
    // SAFETY: the hooks are guarded and follow the server's protocols (see there).
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"vault_ext.token",
            c"Token that says who the user is, where a call does not bring one.",
            c"Set it with vault_login(), or as a bind parameter of set_config(). It cannot be read.",
            &TOKEN,
            GucContext::Userset,
            GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE,
            Some(comes_from_session),
            Some(count_change),
            Some(show_mask),
        );
    }
}

/// How often the setting has changed in this process, by SET as well as by the end of a transaction or savepoint. The same
/// number stands for the same token.
pub fn token_changes() -> u64 {
    TOKEN_CHANGES.get()
}

#[pg_guard]
unsafe extern "C-unwind" fn count_change(_value: *const std::ffi::c_char, _extra: *mut std::ffi::c_void) {
    TOKEN_CHANGES.set(TOKEN_CHANGES.get().wrapping_add(1));
}

/// The token of this session or transaction.
pub fn token() -> Option<Vec<u8>> {
    TOKEN.get().map(std::ffi::CString::into_bytes).filter(|token| !token.is_empty())
}

#[pg_guard]
unsafe extern "C-unwind" fn comes_from_session(
    value: *mut *mut std::ffi::c_char,
    _extra: *mut *mut std::ffi::c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: `value` points to NULL or to a NUL-terminated string.
    let is_empty = unsafe { (*value).is_null() || **value == 0 };
    if is_empty || source == pg_sys::GucSource::PGC_S_SESSION || source == pg_sys::GucSource::PGC_S_DEFAULT {
        return true;
    }
    // The server's own message would quote the value.
    // SAFETY: the server only reads the message, and before this call's memory is reset.
    unsafe {
        pg_sys::GUC_check_errmsg_string =
            c"vault_ext.token can be set by a session or a transaction only".as_ptr().cast_mut();
    }
    false
}

#[pg_guard]
unsafe extern "C-unwind" fn show_mask() -> *const std::ffi::c_char {
    let is_set = token().is_some();
    if is_set { MASK.as_ptr() } else { c"".as_ptr() }
}

/// Makes every other setting with this prefix an error.
pub fn reserve_prefix(prefix: &CStr) {
    // SAFETY: the string is NUL-terminated, and the server copies it.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) };
}
