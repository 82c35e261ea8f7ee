//! What the program `vault-trail` is made of: rows as they were exported ([`rows`]), tiles ([`tiles`]), checkpoints that were kept
//! ([`notes`]), a live server ([`server`]), and exports for other systems ([`export`]). The verification itself is in the crate
//! `vault_trail`.

pub mod export;
pub mod notes;
pub mod rows;
pub mod server;
pub mod tiles;

/// What keeps the program from its work: no verdict about the trail.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("line {line} is not a row of the trail: {why}")]
    Row { line: u64, why: String },
    #[error("{0}")]
    Unusable(String),
    #[error("the server says: {0}")]
    Server(String),
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        let said = error.as_db_error().map(|said| format!("{} (SQLSTATE {})", said.message(), said.code().code()));
        Self::Server(said.unwrap_or_else(|| error.to_string()))
    }
}

impl Error {
    /// For an operation on that file.
    pub fn of_file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        |source| Self::File { path, source }
    }
}
