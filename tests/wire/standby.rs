//! A hot standby cannot write the trail, so it releases no key. After a promotion, every call works at once.

use crate::harness::{Cluster, expect_vault_error, fetch, init, rotate};
use crate::trail;

#[test]
fn a_standby_refuses_and_works_at_once_after_promotion() {
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let key = init(&mut cluster.database("d").app_for("alice")).unwrap();
    cluster.restart_as_standby();

    let db = cluster.existing_database("d");
    let mut app = db.app_for("alice");
    for call in [init, fetch, rotate] {
        let refusal = expect_vault_error(call(&mut app), "25006");
        assert!(refusal.hint.unwrap_or_default().contains("primary"));
    }
    assert_eq!(db.audit_of("alice").len(), 1);
    // It shows what the trail proves.
    let kept = trail::checkpoint(&db);
    assert_eq!(kept.size, 1);
    let verdict: String =
        db.conn("wire_auditor").query_one("SELECT verdict FROM vault_audit_verify()", &[]).unwrap().get(0);
    assert_eq!(verdict, "intact");
    db.conn("wire_auditor").query("SELECT vault_audit_proof(1)", &[]).unwrap();

    let promoted: bool = db.superuser().query_one("SELECT pg_promote(true, 30)", &[]).unwrap().get(0);
    assert!(promoted);
    assert_eq!(fetch(&mut app).unwrap(), key);
    assert_eq!(rotate(&mut app).unwrap().key_version, 2);
    assert_eq!(db.audit_of("alice").len(), 3);
    let (summary, finding) = trail::verify(&db, &[kept]);
    assert_eq!((finding, summary.size, summary.agreed), (None, 3, vec![1]));
}
