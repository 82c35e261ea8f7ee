//! The same gates when processes die without a word: kill -9 of callers, of the writer and of the whole server.

use std::time::Duration;

use crate::harness::{Cluster, eventually, fetch, init, kill9, set_user};
use crate::storm::{Seen, nothing_lost_and_nothing_twice, repeatedly, storm, tagged_fetch};

const SOON: Duration = Duration::from_secs(30);

/// The server's own processes of that kind, without asking the server: it may be in recovery.
fn victims(cluster: &Cluster, kind: &str) -> Vec<i32> {
    let titled = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|title| String::from_utf8_lossy(&title).contains(kind))
    };
    cluster.processes().into_iter().filter(titled).collect()
}

#[test]
fn kill_9_of_callers_loses_no_released_key() {
    let cluster = Cluster::builder().with_wire_kek().start();
    let db = cluster.database("d");
    let mut kills = 0;
    let seen = storm(
        &db,
        6,
        |_, _| {},
        || {
            repeatedly(Duration::from_millis(500), || {
                if let Some(pid) = victims(&cluster, "wire_app").first() {
                    kill9(*pid);
                    kills += 1;
                }
            });
        },
    );
    assert!(kills > 1, "{kills} kills");
    eventually(SOON, "the server is back", || db.cluster.try_conn("postgres", "d").is_ok());
    nothing_lost_and_nothing_twice(&db, &seen);
}

#[test]
fn kill_9_of_the_writer_loses_no_released_key() {
    let cluster = Cluster::builder().with_wire_kek().start();
    let db = cluster.database("d");
    let mut kills = 0;
    let seen = storm(
        &db,
        6,
        |_, _| {},
        || {
            repeatedly(Duration::from_millis(500), || {
                for pid in victims(&cluster, "audit") {
                    kill9(pid);
                    kills += 1;
                }
            });
        },
    );
    assert!(kills > 1, "{kills} kills");
    eventually(SOON, "the server is back", || db.cluster.try_conn("postgres", "d").is_ok());
    nothing_lost_and_nothing_twice(&db, &seen);
}

#[test]
fn kill_9_of_the_whole_server_loses_no_released_key() {
    let mut cluster = Cluster::builder().with_wire_kek().start();
    let mut seen = Vec::new();
    cluster.database("d");
    for _ in 0..2 {
        let db = cluster.existing_database("d");
        let pid = cluster.postmaster_pid();
        let mut sessions = Vec::new();
        for i in 0..4 {
            let mut client = db.app_for(&format!("user-{i}"));
            init(&mut client).unwrap();
            sessions.push(client);
        }
        let round = seen.len();
        let part: Vec<Seen> = std::thread::scope(|scope| {
            let threads: Vec<_> = sessions
                .into_iter()
                .enumerate()
                .map(|(i, mut client)| {
                    scope.spawn(move || {
                        let mut seen = Seen::default();
                        for n in 0.. {
                            let id = format!("{round}-{i}-{n}");
                            match tagged_fetch(&mut client, &id) {
                                Ok(()) => seen.released.push(id),
                                Err(_) => break,
                            }
                        }
                        seen
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(700));
            let children = cluster.processes();
            kill9(pid);
            children.into_iter().for_each(kill9);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        seen.extend(part);
        drop(db);
        cluster.crash();
        cluster.start();
    }
    nothing_lost_and_nothing_twice(&cluster.existing_database("d"), &seen);
}

#[test]
fn a_fast_shutdown_under_load_loses_no_released_key() {
    let mut cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    let db = cluster.database("d");
    let sessions: Vec<_> = (0..4)
        .map(|i| {
            let mut client = db.app_for(&format!("user-{i}"));
            init(&mut client).unwrap();
            client
        })
        .collect();
    drop(db);
    let threads: Vec<_> = sessions
        .into_iter()
        .enumerate()
        .map(|(i, mut client)| {
            std::thread::spawn(move || {
                let ids = (0..).map(|n| format!("{i}-{n}"));
                Seen { released: ids.take_while(|id| tagged_fetch(&mut client, id).is_ok()).collect(), failed: 1 }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    cluster.restart();
    let seen: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let db = cluster.existing_database("d");
    nothing_lost_and_nothing_twice(&db, &seen);
    let mut app = db.app();
    set_user(&mut app, "user-0");
    fetch(&mut app).unwrap();
}
