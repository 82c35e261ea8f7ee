//! Errors of keys in use in SQL.

use pgrx::PgSqlErrorCode;
use vault_core::data::value::Type;

/// Why a value is not encrypted or decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    #[error("the value does not open")]
    DoesNotOpen,
    #[error("the value holds {}, not what this function gives", type_name(*.0))]
    OtherType(Type),
    #[error("a value must not be longer than 64 MiB")]
    TooLong,
    #[error("this transaction has decrypted vault_ext.max_decrypts = {0} values")]
    TooManyDecrypts(u32),
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Bytea => "bytea",
        Type::Text => "text",
        Type::Json => "jsonb",
    }
}

impl DataError {
    /// What the audit row says.
    pub fn context(self) -> &'static str {
        match self {
            Self::DoesNotOpen => "value-does-not-open",
            Self::OtherType(_) => "value-of-other-type",
            Self::TooLong => "value-too-long",
            Self::TooManyDecrypts(_) => "too-many-decrypts",
        }
    }

    /// HTTP-like, for the audit row.
    pub fn status(self) -> u16 {
        match self {
            Self::DoesNotOpen => 500,
            Self::OtherType(_) | Self::TooLong => 400,
            Self::TooManyDecrypts(_) => 429,
        }
    }

    pub(super) fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            Self::DoesNotOpen => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            Self::OtherType(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::TooLong => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::TooManyDecrypts(_) => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        }
    }

    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::DoesNotOpen => {
                "Give the user, the context and the purpose with which it was encrypted; if these are right, it was changed."
            }
            Self::OtherType(Type::Bytea) => "Use vault_decrypt().",
            Self::OtherType(Type::Text) => "Use vault_decrypt_text().",
            Self::OtherType(Type::Json) => "Use vault_decrypt_json().",
            Self::TooLong => "Encrypt it in pieces, or keep it outside the database under a key of vault_derive_key().",
            Self::TooManyDecrypts(_) => "Decrypt less in one transaction; an administrator can raise the limit.",
        }
    }
}
