//! A server whose keyring file changes while it runs, and the calls for it.

use postgres::Error;

use crate::harness::{Cluster, Db, kek, keyring_line};

/// The text of a keyring file from ids and the seeds of their KEKs. The active one comes first.
pub fn keyring(keks: &[(&str, u64)]) -> String {
    keks.iter().map(|(id, seed)| keyring_line(id, &kek(*seed))).collect()
}

pub fn cluster(keks: &[(&str, u64)]) -> Cluster {
    Cluster::builder().keyring(&keyring(keks)).without_fsync().conf("max_connections = 200").start()
}

/// Replaces the keyring file in one step, as one should.
pub fn write(cluster: &Cluster, text: &str) {
    let path = cluster.write_kek("keyring.new", text, 0o600);
    std::fs::rename(path, cluster.dir().join("keyring")).expect("the keyring file is replaced");
}

/// kek_id, active, change.
pub type Reloaded = Vec<(String, bool, String)>;

pub fn reload(db: &Db) -> Result<Reloaded, Error> {
    let rows = db.conn("wire_admin").query("SELECT kek_id, active, change FROM vault_reload_kek()", &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// Replaces the keyring file and reloads it.
pub fn switch(db: &Db, keks: &[(&str, u64)]) -> Result<Reloaded, Error> {
    write(db.cluster, &keyring(keks));
    reload(db)
}

/// One row of vault_kek_status(): id, active, loaded, matches, vaults, retired, safe to remove.
pub type Status = (String, bool, bool, Option<bool>, i64, bool, bool);

pub fn kek_status(db: &Db) -> Vec<Status> {
    let sql =
        "SELECT kek_id, active, loaded, matches, vaults, retired IS NOT NULL, safe_to_remove FROM vault_kek_status()";
    let rows = db.conn("wire_admin").query(sql, &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let status =
        |row: &postgres::Row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5), row.get(6));
    rows.iter().map(status).collect()
}

/// The ids of the loaded KEKs, the active one first.
pub fn loaded(db: &Db) -> Vec<String> {
    kek_status(db).into_iter().filter(|status| status.2).map(|status| status.0).collect()
}

/// done, skipped, failed.
pub type Totals = (i64, i64, i64);

pub fn rewrap(db: &Db, batch_size: i32) -> Result<Totals, Error> {
    rewrap_in(&mut db.conn("wire_admin"), batch_size)
}

pub fn rewrap_in(client: &mut postgres::Client, batch_size: i32) -> Result<Totals, Error> {
    let messages = client.simple_query(&format!("CALL vault_rewrap({batch_size})"))?;
    let number =
        |row: &postgres::SimpleQueryRow, column| row.get(column).and_then(|text| text.parse().ok()).expect("a number");
    let row = messages.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => {
            Some((number(row, "done"), number(row, "skipped"), number(row, "failed")))
        }
        _ => None,
    });
    Ok(row.expect("the call returns the totals"))
}
