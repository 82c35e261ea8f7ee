//! The trail of a live server, read by a role that may read it, such as a member of vault_ext_auditor.

use std::io::BufReader;

use postgres::{Client, NoTls, Transaction};
use vault_trail::Hash;
use vault_trail::checkpoint::Checkpoint;
use vault_trail::verify::{Finding, Hashes, Row, Summary, Verifier};

use crate::{Error, rows};

/// One snapshot of the trail.
pub struct Server {
    client: Client,
}

impl Server {
    /// Connects with libpq's connection string or URL.
    pub fn connect(conninfo: &str) -> Result<Self, Error> {
        Ok(Self { client: Client::connect(conninfo, NoTls)? })
    }

    /// A snapshot: what is read in it belongs together.
    pub fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        self.client.batch_execute("SET datestyle = iso; SET bytea_output = hex")?;
        let transaction = self
            .client
            .build_transaction()
            .read_only(true)
            .isolation_level(postgres::IsolationLevel::RepeatableRead)
            .start()?;
        Ok(Snapshot { transaction })
    }
}

pub struct Snapshot<'a> {
    transaction: Transaction<'a>,
}

impl Snapshot<'_> {
    /// Shows each row in the order of the ids, in flat memory.
    pub fn rows(&mut self, after: i64, show: impl FnMut(&Row<'_>) -> bool) -> Result<(), Error> {
        let sql = format!(
            "COPY (SELECT * FROM vault_ext.encryption_vault_audit WHERE id > {after} ORDER BY id) TO STDOUT (FORMAT csv, HEADER)"
        );
        rows::read(BufReader::with_capacity(1 << 16, self.transaction.copy_out(&sql)?), show)
    }

    /// Shows the tiles of a level from an index on, in their order: level, index, hashes.
    pub fn tiles(
        &mut self,
        level: i16,
        from: u64,
        mut show: impl FnMut(i16, u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        const AT_A_TIME: i64 = 256;
        let sql =
            "SELECT index, hashes FROM vault_ext.audit_tiles WHERE level = $1 AND index >= $2 ORDER BY index LIMIT $3";
        let mut from = from as i64;
        loop {
            let rows = self.transaction.query(sql, &[&level, &from, &AT_A_TIME])?;
            for row in &rows {
                from = row.get::<_, i64>(0) + 1;
                show(level, row.get::<_, i64>(0) as u64, row.get(1))?;
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// The highest level of the tiles.
    pub fn top_level(&mut self) -> Result<i16, Error> {
        Ok(self
            .transaction
            .query_one("SELECT coalesce(max(level), -1)::smallint FROM vault_ext.audit_tiles", &[])?
            .get(0))
    }

    /// The notes of the checkpoints that the server has logged, the oldest first.
    pub fn notes(&mut self) -> Result<Vec<String>, Error> {
        let rows = self.transaction.query("SELECT note FROM vault_ext.audit_checkpoints ORDER BY size", &[])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The number of full tiles.
    fn full_tiles(&mut self) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(index) + 1, 0) FROM vault_ext.audit_tiles WHERE level = 0";
        Ok(self.transaction.query_one(sql, &[])?.get::<_, i64>(0) as u64)
    }

    /// The first line of the trail's checkpoints; None before its first row.
    pub fn origin(&mut self) -> Result<Option<String>, Error> {
        let sql = "SELECT origin FROM vault_ext.audit_trails ORDER BY first_leaf DESC, begun_at DESC LIMIT 1";
        Ok(self.transaction.query_opt(sql, &[])?.map(|row| row.get(0)))
    }
}

/// Verifies a server's trail against checkpoints that were kept.
pub fn verify(conninfo: &str, kept: Vec<Checkpoint>) -> Result<(Summary, Option<Finding>), Error> {
    let mut server = Server::connect(conninfo)?;
    let mut snapshot = server.snapshot()?;
    let lookup = Lookup { client: Client::connect(conninfo, NoTls)?, full: snapshot.full_tiles()? };
    let mut verifier = Verifier::new(kept, lookup);
    snapshot.rows(0, |row| {
        verifier.row(row);
        !verifier.is_done()
    })?;
    Ok(verifier.finish())
}

/// Tiles that are looked up on a connection of their own while the rows are read.
struct Lookup {
    client: Client,
    /// The number of full tiles in the snapshot whose rows are read.
    full: u64,
}

impl Lookup {
    fn look_up(&mut self, level: i16, index: u64) -> Option<Vec<Hash>> {
        let sql = "SELECT hashes FROM vault_ext.audit_tiles WHERE level = $1 AND index = $2";
        let row = self.client.query_opt(sql, &[&level, &(index as i64)]).ok().flatten();
        row.map(|row| row.get::<_, &[u8]>(0).as_chunks::<32>().0.to_vec())
    }
}

impl Hashes for Lookup {
    fn tile(&mut self, level: u8, index: u64) -> Option<Vec<Hash>> {
        self.look_up(level.into(), index)
    }

    fn purged(&mut self, leaf: u64) -> Option<Hash> {
        self.look_up(-1, leaf)?.first().copied()
    }

    fn full_tiles(&mut self) -> u64 {
        self.full
    }
}
