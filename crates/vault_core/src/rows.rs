//! What each row that holds wraps must be. The CHECKs of vault_ext.encryption_vaults and vault_ext.old_keys ask this, since PostgreSQL
//! parses the text of each CHECK anew for every statement. As in a CHECK, a comparison with NULL breaks no rule.

/// A rule that a row breaks. It names columns and never a value: a wrap must not get into a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{columns} in vault_ext.{table} {rule}")]
pub struct Unsound {
    pub table: &'static str,
    pub columns: &'static str,
    pub rule: &'static str,
}

/// A row of vault_ext.encryption_vaults, as far as rules concern it.
#[derive(Clone, Copy)]
pub struct VaultRow<'a> {
    pub user_id: Option<&'a str>,
    pub wrapped_mk: Option<&'a str>,
    pub wrap_iv: Option<&'a str>,
    pub format_version: Option<i16>,
    pub kek_id: Option<&'a str>,
    pub key_version: Option<i32>,
    pub recovery_wrapped_mk: Option<&'a str>,
    pub recovery_iv: Option<&'a str>,
    pub has_recovery_set_at: bool,
    pub zero_knowledge: Option<bool>,
    pub key_check: Option<&'a str>,
    pub has_erase_after: bool,
}

/// A row of vault_ext.old_keys, as far as rules concern it.
#[derive(Clone, Copy)]
pub struct OldKeyRow<'a> {
    pub user_id: Option<&'a str>,
    pub key_version: Option<i32>,
    pub wrapped_mk: Option<&'a str>,
    pub wrap_iv: Option<&'a str>,
    pub format_version: Option<i16>,
    pub kek_id: Option<&'a str>,
    pub state: Option<&'a str>,
    pub has_destroy_after: bool,
    pub has_destroyed_at: bool,
}

/// Whether a row keeps a rule, the rule's columns, and the rule.
type Rule = (bool, &'static str, &'static str);

/// The columns that both tables have.
struct Common<'a> {
    user_id: Option<&'a str>,
    wrapped_mk: Option<&'a str>,
    wrap_iv: Option<&'a str>,
    format_version: Option<i16>,
    kek_id: Option<&'a str>,
    key_version: Option<i32>,
}

impl Common<'_> {
    fn rules(&self) -> [Rule; 6] {
        [
            (has_bytes(self.user_id, 1, 255), "user_id", "must have 1 to 255 bytes"),
            (has_bytes(self.wrapped_mk, 64, 64), "wrapped_mk", "must have 64 bytes"),
            (
                nonce_fits(self.wrap_iv, self.format_version),
                "wrap_iv",
                "must have 16 bytes in format 1, and 32 in format 2",
            ),
            (self.format_version.is_none_or(|format| matches!(format, 1 | 2)), "format_version", "must be 1 or 2"),
            (has_bytes(self.kek_id, 1, 64), "kek_id", "must have 1 to 64 bytes"),
            (self.key_version.is_none_or(|version| version >= 1), "key_version", "must be at least 1"),
        ]
    }
}

impl VaultRow<'_> {
    fn common(&self) -> Common<'_> {
        let Self { user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, .. } = *self;
        Common { user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version }
    }

    /// # Errors
    /// The first rule that the row breaks.
    pub fn check(&self) -> Result<(), Unsound> {
        let (no_wrap, no_recovery) = (self.wrapped_mk.is_none(), self.recovery_wrapped_mk.is_none());
        first_broken(
            "encryption_vaults",
            &self.common().rules(),
            &[
                (no_wrap == self.wrap_iv.is_none(), "wrapped_mk and wrap_iv", "must be NULL together"),
                (
                    no_recovery == self.recovery_iv.is_none() && no_recovery != self.has_recovery_set_at,
                    "recovery_wrapped_mk, recovery_iv and recovery_set_at",
                    "must be NULL together",
                ),
                (has_bytes(self.recovery_wrapped_mk, 1, 1024), "recovery_wrapped_mk", "must have 1 to 1024 bytes"),
                (has_bytes(self.recovery_iv, 1, 64), "recovery_iv", "must have 1 to 64 bytes"),
                (
                    self.zero_knowledge != Some(true) || (no_wrap && !no_recovery),
                    "zero_knowledge",
                    "must only be true with a recovery_wrapped_mk and without a wrapped_mk",
                ),
                // While an erasure is scheduled, the wrap of the current key is among the old keys, where no call opens it.
                (
                    self.zero_knowledge != Some(false) || no_wrap == self.has_erase_after,
                    "wrapped_mk",
                    "must be NULL while erase_after is set, and at no other time outside of zero-knowledge mode",
                ),
                (
                    self.key_check.is_none_or(is_check_value),
                    "key_check",
                    "must have 32 hexadecimal digits, in lower case",
                ),
            ],
        )
    }
}

impl OldKeyRow<'_> {
    fn common(&self) -> Common<'_> {
        let Self { user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version, .. } = *self;
        Common { user_id, wrapped_mk, wrap_iv, format_version, kek_id, key_version }
    }

    /// # Errors
    /// The first rule that the row breaks.
    pub fn check(&self) -> Result<(), Unsound> {
        // What depends on the state holds as long as there is none.
        let in_state = |holds: &dyn Fn(&str) -> bool| self.state.is_none_or(holds);
        first_broken(
            "old_keys",
            &self.common().rules(),
            &[
                (
                    in_state(&|state| matches!(state, "decrypt_only" | "disabled" | "destroy_scheduled" | "destroyed")),
                    "state",
                    "must be decrypt_only, disabled, destroy_scheduled or destroyed",
                ),
                (
                    in_state(&|state| {
                        let destroyed = state == "destroyed";
                        self.wrapped_mk.is_none() == destroyed && self.wrap_iv.is_none() == destroyed
                    }),
                    "wrapped_mk and wrap_iv",
                    "must be NULL in the state destroyed, and in no other",
                ),
                (
                    in_state(&|state| state == "destroyed" || self.has_destroy_after == (state == "destroy_scheduled")),
                    "destroy_after",
                    "must be set in the state destroy_scheduled, and in no other but destroyed",
                ),
                (
                    in_state(&|state| self.has_destroyed_at == (state == "destroyed")),
                    "destroyed_at",
                    "must be set in the state destroyed, and in no other",
                ),
            ],
        )
    }
}

/// The rules of the common columns come first.
fn first_broken(table: &'static str, common: &[Rule], own: &[Rule]) -> Result<(), Unsound> {
    match common.iter().chain(own).find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some(&(_, columns, rule)) => Err(Unsound { table, columns, rule }),
    }
}

fn has_bytes(text: Option<&str>, least: usize, most: usize) -> bool {
    text.is_none_or(|text| (least..=most).contains(&text.len()))
}

/// An unknown format asks for no length: that the format is unknown breaks a rule of its own.
fn nonce_fits(nonce: Option<&str>, format: Option<i16>) -> bool {
    match format {
        Some(1) => has_bytes(nonce, 16, 16),
        Some(2) => has_bytes(nonce, 32, 32),
        _ => true,
    }
}

fn is_check_value(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRAP: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const LONG: &str = "x";

    fn text(bytes: usize) -> Option<&'static str> {
        Some(Box::leak(LONG.repeat(bytes).into_boxed_str()))
    }

    const VAULT: VaultRow<'static> = VaultRow {
        user_id: Some("alice"),
        wrapped_mk: Some(WRAP),
        wrap_iv: Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        format_version: Some(2),
        kek_id: Some("k1"),
        key_version: Some(1),
        recovery_wrapped_mk: None,
        recovery_iv: None,
        has_recovery_set_at: false,
        zero_knowledge: Some(false),
        key_check: None,
        has_erase_after: false,
    };
    const OLD_KEY: OldKeyRow<'static> = OldKeyRow {
        user_id: VAULT.user_id,
        key_version: VAULT.key_version,
        wrapped_mk: VAULT.wrapped_mk,
        wrap_iv: VAULT.wrap_iv,
        format_version: VAULT.format_version,
        kek_id: VAULT.kek_id,
        state: Some("decrypt_only"),
        has_destroy_after: false,
        has_destroyed_at: false,
    };
    const RECOVERABLE: VaultRow<'static> =
        VaultRow { recovery_wrapped_mk: Some("w"), recovery_iv: Some("i"), has_recovery_set_at: true, ..VAULT };
    const ZERO_KNOWLEDGE: VaultRow<'static> =
        VaultRow { wrapped_mk: None, wrap_iv: None, zero_knowledge: Some(true), ..RECOVERABLE };
    const ERASING: VaultRow<'static> = VaultRow { wrapped_mk: None, wrap_iv: None, has_erase_after: true, ..VAULT };
    const DESTROYED: OldKeyRow<'static> =
        OldKeyRow { wrapped_mk: None, wrap_iv: None, state: Some("destroyed"), has_destroyed_at: true, ..OLD_KEY };
    const SCHEDULED: OldKeyRow<'static> =
        OldKeyRow { state: Some("destroy_scheduled"), has_destroy_after: true, ..OLD_KEY };

    /// The columns and the beginning of the rule.
    #[track_caller]
    fn broken(result: Result<(), Unsound>, table: &str, columns: &str, rule: &str) {
        let unsound = result.expect_err(rule);
        assert_eq!((unsound.table, unsound.columns), (table, columns), "{unsound}");
        assert!(unsound.rule.starts_with(rule), "{unsound}");
        assert_eq!(unsound.to_string(), format!("{columns} in vault_ext.{table} {}", unsound.rule));
    }

    #[track_caller]
    fn bad_vault(row: VaultRow<'_>, columns: &str, rule: &str) {
        broken(row.check(), "encryption_vaults", columns, rule);
    }

    #[track_caller]
    fn bad_old_key(row: OldKeyRow<'_>, columns: &str, rule: &str) {
        broken(row.check(), "old_keys", columns, rule);
    }

    #[test]
    fn rows_as_the_vault_writes_them_are_sound() {
        for row in [
            VAULT,
            RECOVERABLE,
            ZERO_KNOWLEDGE,
            ERASING,
            VaultRow { has_erase_after: true, ..ZERO_KNOWLEDGE },
            VaultRow { format_version: Some(1), wrap_iv: text(16), ..VAULT },
            VaultRow { key_version: Some(i32::MAX), ..VAULT },
        ] {
            assert_eq!(row.check(), Ok(()));
        }
        for row in [
            OLD_KEY,
            DESTROYED,
            SCHEDULED,
            OldKeyRow { state: Some("disabled"), ..OLD_KEY },
            OldKeyRow { has_destroy_after: true, ..DESTROYED },
            OldKeyRow { format_version: Some(1), wrap_iv: text(16), ..OLD_KEY },
        ] {
            assert_eq!(row.check(), Ok(()));
        }
    }

    #[test]
    fn lengths_are_counted_in_bytes_and_have_bounds() {
        for (bytes, sound) in [(0, false), (1, true), (255, true), (256, false)] {
            assert_eq!(VaultRow { user_id: text(bytes), ..VAULT }.check().is_ok(), sound, "{bytes}");
            assert_eq!(OldKeyRow { user_id: text(bytes), ..OLD_KEY }.check().is_ok(), sound, "{bytes}");
        }
        for (bytes, sound) in [(0, false), (1, true), (64, true), (65, false)] {
            assert_eq!(VaultRow { kek_id: text(bytes), ..VAULT }.check().is_ok(), sound, "{bytes}");
            assert_eq!(OldKeyRow { kek_id: text(bytes), ..OLD_KEY }.check().is_ok(), sound, "{bytes}");
            assert_eq!(VaultRow { recovery_iv: text(bytes), ..RECOVERABLE }.check().is_ok(), sound, "{bytes}");
        }
        for (bytes, sound) in [(0, false), (1, true), (1024, true), (1025, false)] {
            assert_eq!(VaultRow { recovery_wrapped_mk: text(bytes), ..RECOVERABLE }.check().is_ok(), sound, "{bytes}");
        }
        for bytes in [0, 63, 65] {
            bad_vault(VaultRow { wrapped_mk: text(bytes), ..VAULT }, "wrapped_mk", "must have 64 bytes");
            bad_old_key(OldKeyRow { wrapped_mk: text(bytes), ..OLD_KEY }, "wrapped_mk", "must have 64 bytes");
        }
        let (umlauts, too_many) = ("\u{e4}".repeat(127), "\u{e4}".repeat(128));
        assert_eq!(VaultRow { user_id: Some(&umlauts), ..VAULT }.check(), Ok(()));
        bad_vault(VaultRow { user_id: Some(&too_many), ..VAULT }, "user_id", "must have 1 to 255 bytes");
        bad_vault(VaultRow { kek_id: Some(""), ..VAULT }, "kek_id", "must have 1 to 64 bytes");
        bad_vault(VaultRow { recovery_iv: Some(""), ..RECOVERABLE }, "recovery_iv", "must have 1 to 64 bytes");
        let row = VaultRow { recovery_wrapped_mk: Some(""), ..RECOVERABLE };
        bad_vault(row, "recovery_wrapped_mk", "must have 1 to 1024 bytes");
        bad_old_key(OldKeyRow { user_id: Some(""), ..OLD_KEY }, "user_id", "must have 1 to 255 bytes");
        bad_old_key(OldKeyRow { kek_id: Some(""), ..OLD_KEY }, "kek_id", "must have 1 to 64 bytes");
    }

    #[test]
    fn the_nonce_has_the_length_of_its_format() {
        for (format, right) in [(1, 16), (2, 32)] {
            for bytes in [0, 15, 16, 17, 28, 31, 32, 33] {
                let (format_version, wrap_iv) = (Some(format), text(bytes));
                let vault = VaultRow { format_version, wrap_iv, ..VAULT };
                let old_key = OldKeyRow { format_version, wrap_iv, ..OLD_KEY };
                if bytes == right {
                    assert_eq!((vault.check(), old_key.check()), (Ok(()), Ok(())));
                } else {
                    bad_vault(vault, "wrap_iv", "must have 16 bytes in format 1");
                    bad_old_key(old_key, "wrap_iv", "must have 16 bytes in format 1");
                }
            }
        }
        for format in [i16::MIN, -1, 0, 3, i16::MAX] {
            bad_vault(VaultRow { format_version: Some(format), ..VAULT }, "format_version", "must be 1 or 2");
            bad_old_key(OldKeyRow { format_version: Some(format), ..OLD_KEY }, "format_version", "must be 1 or 2");
        }
    }

    #[test]
    fn versions_begin_with_1() {
        for version in [i32::MIN, -1, 0] {
            bad_vault(VaultRow { key_version: Some(version), ..VAULT }, "key_version", "must be at least 1");
            bad_old_key(OldKeyRow { key_version: Some(version), ..OLD_KEY }, "key_version", "must be at least 1");
        }
    }

    #[test]
    fn wraps_are_whole() {
        for row in [VaultRow { wrapped_mk: None, ..VAULT }, VaultRow { wrap_iv: None, ..VAULT }] {
            bad_vault(row, "wrapped_mk and wrap_iv", "must be NULL together");
        }
        for parts in 1..7 {
            let row = VaultRow {
                recovery_wrapped_mk: if parts & 1 == 0 { None } else { Some("w") },
                recovery_iv: if parts & 2 == 0 { None } else { Some("i") },
                has_recovery_set_at: parts & 4 != 0,
                ..VAULT
            };
            bad_vault(row, "recovery_wrapped_mk, recovery_iv and recovery_set_at", "must be NULL together");
        }
    }

    #[test]
    fn zero_knowledge_leaves_the_recovery_wrap_alone() {
        for row in [
            VaultRow { zero_knowledge: Some(true), ..VAULT },
            VaultRow { zero_knowledge: Some(true), ..RECOVERABLE },
            VaultRow { zero_knowledge: Some(true), ..ERASING },
        ] {
            bad_vault(row, "zero_knowledge", "must only be true with a recovery_wrapped_mk");
        }
    }

    #[test]
    fn a_vault_has_a_wrap_unless_it_is_to_be_erased() {
        for row in [
            VaultRow { zero_knowledge: Some(false), ..ZERO_KNOWLEDGE },
            VaultRow { wrapped_mk: None, wrap_iv: None, ..VAULT },
            VaultRow { has_erase_after: true, ..VAULT },
            VaultRow { has_erase_after: true, ..RECOVERABLE },
        ] {
            bad_vault(row, "wrapped_mk", "must be NULL while erase_after is set");
        }
    }

    #[test]
    fn a_check_value_is_in_hex() {
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(VaultRow { key_check: Some(good), ..ZERO_KNOWLEDGE }.check(), Ok(()));
        let more = format!("{good}\n");
        for bad in ["", &good[1..], &more, &good.to_uppercase(), &good.replace('a', "g"), &good.replace("ab", "\u{e4}")]
        {
            bad_vault(VaultRow { key_check: Some(bad), ..VAULT }, "key_check", "must have 32 hexadecimal digits");
        }
    }

    #[test]
    fn an_old_key_is_in_a_known_state_and_has_what_belongs_to_it() {
        for state in ["", "Destroyed", "destroyed ", "active"] {
            bad_old_key(OldKeyRow { state: Some(state), ..OLD_KEY }, "state", "must be decrypt_only, disabled");
        }
        for row in [
            OldKeyRow { wrapped_mk: None, ..OLD_KEY },
            OldKeyRow { wrap_iv: None, ..SCHEDULED },
            OldKeyRow { wrapped_mk: OLD_KEY.wrapped_mk, ..DESTROYED },
            OldKeyRow { wrap_iv: OLD_KEY.wrap_iv, ..DESTROYED },
        ] {
            bad_old_key(row, "wrapped_mk and wrap_iv", "must be NULL in the state destroyed");
        }
        for row in [
            OldKeyRow { has_destroy_after: true, ..OLD_KEY },
            OldKeyRow { has_destroy_after: true, state: Some("disabled"), ..OLD_KEY },
            OldKeyRow { has_destroy_after: false, ..SCHEDULED },
        ] {
            bad_old_key(row, "destroy_after", "must be set in the state destroy_scheduled");
        }
        for row in [
            OldKeyRow { has_destroyed_at: true, ..OLD_KEY },
            OldKeyRow { has_destroyed_at: true, ..SCHEDULED },
            OldKeyRow { has_destroyed_at: false, ..DESTROYED },
        ] {
            bad_old_key(row, "destroyed_at", "must be set in the state destroyed");
        }
    }

    #[test]
    fn the_first_broken_rule_is_named() {
        let row = VaultRow { user_id: Some(""), wrapped_mk: Some("x"), format_version: Some(9), ..VAULT };
        bad_vault(row, "user_id", "must have 1 to 255 bytes");
        bad_vault(VaultRow { user_id: VAULT.user_id, ..row }, "wrapped_mk", "must have 64 bytes");
        let row = OldKeyRow { state: Some("x"), key_version: Some(0), ..DESTROYED };
        bad_old_key(row, "key_version", "must be at least 1");
    }

    #[test]
    fn null_breaks_no_rule_by_itself() {
        for row in [
            VaultRow { user_id: None, ..VAULT },
            VaultRow { format_version: None, ..VAULT },
            VaultRow { kek_id: None, ..VAULT },
            VaultRow { key_version: None, ..VAULT },
            VaultRow { zero_knowledge: None, ..VAULT },
            VaultRow { zero_knowledge: None, ..ZERO_KNOWLEDGE },
            VaultRow { zero_knowledge: None, has_erase_after: true, ..VAULT },
        ] {
            assert_eq!(row.check(), Ok(()));
        }
        for row in [
            OldKeyRow { state: None, ..OLD_KEY },
            OldKeyRow { state: None, ..DESTROYED },
            OldKeyRow { state: None, has_destroy_after: true, wrapped_mk: None, ..OLD_KEY },
        ] {
            assert_eq!(row.check(), Ok(()));
        }
    }
}
