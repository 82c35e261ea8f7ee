//! Logical replication of the tables to a server with the same keyring, and the switchover to that server.

use std::time::Duration;

use crate::backup::some_vaults;
use crate::harness::{Cluster, Db, eventually, expect_vault_error};
use crate::ledger::{Call, Ledger};

const SOON: Duration = Duration::from_secs(60);

fn subscribe(publisher: &Db, subscriber: &Db) {
    publisher.force(
        "CREATE PUBLICATION vault FOR TABLE vault_ext.encryption_vaults, vault_ext.keks, vault_ext.encryption_vault_audit",
    );
    let cluster = publisher.cluster;
    // Since PostgreSQL 16, rows are applied as the tables' owner by default, and row-level security blocks the owner.
    let version: i32 = subscriber.value("SELECT current_setting('server_version_num')::integer");
    let options = if version < 160_000 { "" } else { " WITH (run_as_owner)" };
    subscriber.force(&format!(
        "CREATE SUBSCRIPTION vault CONNECTION 'host={} port={} user=postgres dbname={}' PUBLICATION vault{options}",
        cluster.dir().display(),
        cluster.port(),
        publisher.name
    ));
}

fn catch_up(publisher: &Db, subscriber: &Db) {
    eventually(SOON, "the subscriber has the whole trail", || {
        let ready: bool = subscriber.value("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel");
        ready && subscriber.audit().len() == publisher.audit().len()
    });
}

#[test]
fn a_subscriber_opens_every_key_and_takes_over() {
    let conf = |cluster: crate::harness::Builder| cluster.with_wire_kek().without_fsync().conf("wal_level = logical");
    let (old, new) = (conf(Cluster::builder()).start(), conf(Cluster::builder()).start());
    let (publisher, subscriber) = (old.database("d"), new.database("d"));
    let mut ledger = some_vaults(&publisher);
    subscribe(&publisher, &subscriber);
    let mut app = publisher.app();
    for i in 0..20 {
        ledger.call(&mut app, &format!("later-{i}"), Call::Init).unwrap();
        ledger.call(&mut app, &format!("later-{}", i / 2), Call::Rotate).unwrap();
    }
    catch_up(&publisher, &subscriber);
    ledger.end_checks(&publisher, "the publisher of logical replication", 1);
    catch_up(&publisher, &subscriber);
    subscriber.force(
        "ALTER SUBSCRIPTION vault DISABLE; ALTER SUBSCRIPTION vault SET (slot_name = NONE); DROP SUBSCRIPTION vault",
    );

    // Sequences are not replicated. Until someone sets this one, it gives numbers that are taken, and no key is
    // released.
    let mut app = subscriber.app();
    expect_vault_error(Ledger::default().call(&mut app, "later-1", Call::Fetch), "55000");
    subscriber.force(
        "SELECT setval('vault_ext.encryption_vault_audit_id_seq', (SELECT max(id) FROM vault_ext.encryption_vault_audit))",
    );
    ledger.end_checks(&subscriber, "the subscriber of logical replication after the switch", 1);
}
