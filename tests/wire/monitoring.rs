//! examples/monitoring as its README says: real exporters, a real Prometheus, every alert and every expression of the dashboard.
//! Needs Debian's prometheus, prometheus-postgres-exporter and prometheus-sql-exporter: make test-monitoring.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use serde_json::Value;

use crate::documented::{commands, section};
use crate::harness::{
    Cluster, Db, bindir, chown_to_server, eventually, expect_error, expect_vault_error, fetch, init, rotate,
    scratch_dir, server_command, succeed,
};

const SOON: Duration = Duration::from_secs(60);
const README: &str = include_str!("../../examples/monitoring/README.md");
const ALERTS: &str = include_str!("../../examples/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../examples/monitoring/dashboard.json");
const QUERIES: &str = include_str!("../../examples/monitoring/queries.yaml");

/// Where `make test-monitoring` has unpacked the packages.
fn packages() -> PathBuf {
    std::env::var_os("VAULT_EXT_MONITORING").expect("VAULT_EXT_MONITORING: run make test-monitoring").into()
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The body of the HTTP answer, if it is 200.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}

/// A program that runs until it is dropped. Its output goes to a file, which a failing test shows.
struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(name: &'static str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Running { name, child: command.spawn().unwrap_or_else(|e| panic!("{name}: {e}")), log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

struct Series {
    labels: Value,
    value: f64,
}

impl Series {
    fn label(&self, name: &str) -> &str {
        self.labels[name].as_str().unwrap_or_default()
    }
}

/// A folder with the files of the example, where the README expects them, and what runs on them.
struct Monitoring {
    dir: PathBuf,
    socket: PathBuf,
    prometheus: u16,
    running: Vec<Running>,
}

impl Monitoring {
    fn new(cluster: &Cluster) -> Self {
        let dir = scratch_dir();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring");
        for entry in fs::read_dir(example).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, dir.join(from.file_name().unwrap())).unwrap();
        }
        chown_to_server(&dir);
        Monitoring { dir, socket: cluster.dir().to_owned(), prometheus: free_port(), running: Vec::new() }
    }

    /// A part of the README, with this test's folders in place of the system's.
    fn localised(&self, text: &str) -> String {
        text.replace("/etc/prometheus/vault_ext", self.dir.to_str().unwrap())
            .replace("/run/postgresql", self.socket.to_str().unwrap())
            .replace("127.0.0.1:9090", &format!("127.0.0.1:{}", self.prometheus))
    }

    fn path(&self) -> String {
        format!("{}:{}:/usr/bin:/bin", packages().join("usr/bin").display(), bindir().display())
    }

    /// Runs commands of the README. There is no sudo in a test: the user whom it names becomes the role.
    fn run(&self, script: &str) -> String {
        let script = format!("sudo() {{ PGUSER=$2 \"${{@:3}}\"; }}\n{}", self.localised(script));
        let mut bash = server_command("/bin/bash", &self.dir);
        bash.args(["-euo", "pipefail", "-c", &script]).env("PATH", self.path()).env("PGHOST", &self.socket);
        succeed(&mut bash)
    }

    fn start(&mut self, name: &'static str, command: &mut Command) {
        let running = Running::start(name, &self.dir, command);
        self.running.push(running);
    }

    /// Debian's service of the exporter reads that file and passes $ARGS on. Returns the port.
    fn start_postgres_exporter(&mut self) -> u16 {
        let port = free_port();
        let environment = self.localised(&block("ini")[0]);
        let script = format!(
            "set -a; {environment}set +a; exec prometheus-postgres-exporter $ARGS --web.listen-address=127.0.0.1:{port}"
        );
        let mut bash = server_command("/bin/bash", &self.dir);
        bash.args(["-euc", &script]).env("PATH", self.path());
        self.start("prometheus-postgres-exporter", &mut bash);
        port
    }

    fn start_sql_exporter(&mut self) -> u16 {
        let port = free_port();
        let config = self.localised(include_str!("../../examples/monitoring/sql_exporter.yml"));
        let one = "      - 'postgres://prometheus@/app?";
        assert!(config.contains(one));
        let line = config.lines().find(|line| line.starts_with(one)).unwrap();
        let both = format!("{line}\n{}", line.replace("@/app?", "@/other?"));
        fs::write(self.dir.join("sql.yml"), config.replace(line, &both).replace("interval: 15s", "interval: 1s"))
            .unwrap();
        let mut command = server_command(packages().join("usr/bin/prometheus-sql-exporter"), &self.dir);
        command.args(["-config.file", "sql.yml"]).arg(format!("-web.listen-address=127.0.0.1:{port}"));
        self.start("prometheus-sql-exporter", &mut command);
        port
    }

    /// Prometheus with one of the README's configurations, but a scrape and an evaluation each second.
    fn start_prometheus(&mut self, config: &str, documented: &str, exporter: u16) {
        let config = self.localised(config);
        assert!(config.contains(documented), "{config}");
        let config = config.replace(documented, &format!("127.0.0.1:{exporter}"));
        let file = self.dir.join("prometheus.yml");
        fs::write(&file, format!("global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{config}")).unwrap();
        succeed(Command::new(packages().join("usr/bin/promtool")).args(["check", "config"]).arg(&file));
        let mut command = server_command(packages().join("usr/bin/prometheus"), &self.dir);
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{}", self.prometheus));
        self.start("prometheus", &mut command);
        eventually(SOON, "prometheus is ready", || get(self.prometheus, "/-/ready").is_some());
    }

    /// The answer of Prometheus's API; none while it is not there.
    fn ask(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&get(self.prometheus, &format!("/api/v1/{path}"))?).ok()
    }

    /// The series of an expression. Panics if it is not valid.
    fn query(&self, expression: &str) -> Vec<Series> {
        let coded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.ask(&format!("query?query={coded}")).unwrap_or_else(|| panic!("not valid: {expression}"));
        assert_eq!(answer["data"]["resultType"], "vector", "{expression}");
        let series = |series: &Value| Series {
            labels: series["metric"].clone(),
            value: series["value"][1].as_str().unwrap().parse().unwrap(),
        };
        answer["data"]["result"].as_array().unwrap().iter().map(series).collect()
    }

    #[track_caller]
    fn wait_for(&self, expression: &str, value: f64) {
        eventually(SOON, &format!("{expression} is {value}"), || {
            let series = self.query(expression);
            series.len() == 1 && series[0].value == value
        });
    }

    /// The alerts that wait for their time or fire, with their databases.
    fn alerts(&self) -> BTreeSet<(String, String)> {
        let answer = self.ask("alerts").unwrap();
        let text = |labels: &Value, name: &str| labels[name].as_str().unwrap_or_default().to_owned();
        let alerts = answer["data"]["alerts"].as_array().unwrap().iter();
        alerts.map(|alert| (text(&alert["labels"], "alertname"), text(&alert["labels"], "datname"))).collect()
    }

    #[track_caller]
    fn wait_for_alert(&self, name: &str, database: &str) {
        eventually(SOON, name, || self.alerts().contains(&(name.to_owned(), database.to_owned())));
    }
}

/// The README's blocks of a kind.
fn block(kind: &str) -> Vec<String> {
    let (mut blocks, mut indent) = (Vec::new(), None);
    for line in README.lines() {
        match (indent, line.trim_start().strip_prefix("```")) {
            (None, Some(opened)) if opened == kind => {
                indent = Some(line.len() - line.trim_start().len());
                blocks.push(String::new());
            }
            (Some(_), Some(_)) => indent = None,
            (Some(indent), None) => {
                *blocks.last_mut().unwrap() += &format!("{}\n", line.get(indent..).unwrap_or_default())
            }
            _ => {}
        }
    }
    blocks
}

/// The README's steps that are commands, in their order.
fn steps() -> [String; 4] {
    let set_up = section(README, "Set it up");
    let steps: Vec<String> = set_up.split("```sh").skip(1).map(|step| commands(&format!("```sh{step}"))).collect();
    steps.try_into().expect("four steps")
}

/// Every metric of ours that a text names.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("vault_ext_") || word.starts_with("pg_exporter_")).collect()
}

fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(expressions.len() > 20);
    // As Grafana replaces them.
    let filled =
        |text: String| text.replace("$instance", ".*").replace("$datname", ".*").replace("$__rate_interval", "30s");
    expressions.into_iter().map(filled).inspect(|text| assert!(!text.contains('$'), "{text}")).collect()
}

/// Calls of all kinds: each metric gets a series, and the honey user's fetch raises an alarm.
fn call_some(db: &Db) {
    for user in ["alice", "bob"] {
        init(&mut db.app_for(user)).unwrap();
        (0..5).for_each(|_| drop(fetch(&mut db.app_for(user)).unwrap()));
    }
    expect_vault_error(fetch(&mut db.app_for("nobody")), "P0002");
    let mut app = db.app_for("alice");
    app.batch_execute("BEGIN").unwrap();
    rotate(&mut app).unwrap();
    app.batch_execute("ROLLBACK").unwrap();
}

/// Two databases, and the documented roles and first checks in them.
fn server() -> (Cluster, Monitoring) {
    let cluster = Cluster::builder().with_wire_kek().without_fsync().start();
    for name in ["app", "other"] {
        let db = cluster.database(name);
        db.force(&format!("ALTER ROLE wire_app IN DATABASE {name} SET vault_ext.max_users_per_minute = 3"));
        call_some(&db);
    }
    let monitoring = Monitoring::new(&cluster);
    (cluster, monitoring)
}

#[test]
fn the_documented_way_leads_to_figures_alerts_and_a_dashboard_without_gaps() {
    let (cluster, mut monitoring) = server();
    let app = cluster.existing_database("app");
    let [roles, check, look, rules] = steps();
    monitoring.run(&roles);
    monitoring.run(&roles);
    monitoring.run(&check);
    let printed = monitoring.run(&rules);
    assert!(printed.contains("SUCCESS"), "{printed}");
    let exporter = monitoring.start_postgres_exporter();
    monitoring.start_prometheus(&block("yaml")[0], "127.0.0.1:9187", exporter);
    eventually(SOON, "both databases are watched", || monitoring.query("vault_ext_health_ok").len() == 2);
    let printed = monitoring.run(&look);
    assert_eq!((printed.lines().count(), printed.matches("=> 1 @").count()), (2, 2), "{printed}");

    // The figures are those of the views.
    let calls = |action: &str, status: &str| {
        format!("vault_ext_stat_calls_total{{datname=\"app\", action=\"{action}\", status=\"{status}\"}}")
    };
    monitoring.wait_for(&calls("fetch", "200"), 10.0);
    monitoring.wait_for(&calls("failed_fetch", "404"), 1.0);
    monitoring.wait_for(&calls("rotate", "409"), 1.0);
    monitoring.wait_for("vault_ext_wait_seconds_count{datname=\"app\", action=\"fetch\"}", 10.0);
    monitoring.wait_for("vault_ext_wait_seconds_bucket{datname=\"app\", action=\"fetch\", le=\"+Inf\"}", 10.0);
    let ours =
        "sum(vault_ext_wait_seconds_sum{datname=\"app\"}) - sum(vault_ext_stat_wait_seconds_total{datname=\"app\"})";
    eventually(SOON, "the sums agree", || monitoring.query(ours).iter().any(|series| series.value.abs() < 1e-6));
    monitoring.wait_for("vault_ext_kek_vaults{datname=\"app\"}", 2.0);
    monitoring.wait_for("vault_ext_check_vaults{datname=\"other\", outcome=\"opens\"}", 2.0);
    let leaves: i64 = app.value("SELECT count(*) FROM vault_ext.encryption_vault_audit");
    monitoring.wait_for("vault_ext_trail_leaves{datname=\"app\"}", leaves as f64);

    // Prometheus holds a checkpoint that agrees with the trail.
    let checkpoint = monitoring.query("vault_ext_checkpoint_size{datname=\"app\"}").remove(0);
    let note = format!("{}\n{}\n{}\n", checkpoint.label("origin"), checkpoint.value, checkpoint.label("root"));
    let checkpoint = vault_trail_cli::notes::checkpoints(&note, None).unwrap();
    assert_eq!((checkpoint.len(), crate::trail::verify(&app, &checkpoint).1), (1, None));

    // Nothing that an alert or the dashboard names is missing, and the dashboard has no empty panel.
    let exported = get(exporter, "/metrics").unwrap();
    let names: BTreeSet<&str> = exported.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let named: BTreeSet<&str> = metrics_in(ALERTS).into_iter().chain(metrics_in(DASHBOARD)).collect();
    let missing: Vec<_> = named.difference(&names).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
    assert!(exported.contains("pg_exporter_last_scrape_error 0"), "{exported}");
    let fetching = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let load = scope.spawn(|| {
            let stopped = stopped;
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                expect_vault_error(fetch(&mut app.app_for("nobody")), "P0002");
                fetch(&mut app.app_for("alice")).unwrap();
            }
        });
        for expression in expressions() {
            eventually(SOON, &expression, || {
                let series = monitoring.query(&expression);
                !series.is_empty() && series.iter().all(|series| !series.value.is_nan())
            });
        }
        drop(stop);
        load.join()
    });
    fetching.unwrap();
    eventually(SOON, "no alert", || monitoring.alerts().is_empty());

    // And now what the alerts are for.
    let users = ["carol", "dave", "erin", "frank"].iter();
    let mut refused = users.map(|user| init(&mut app.app_for(user))).filter_map(Result::err);
    expect_error(refused.next().map_or(Ok(()), Err), "53400");
    monitoring.wait_for_alert("VaultCallsOverLimit", "app");
    monitoring.wait_for_alert("VaultAlarm", "app");
    app.force(
        "BEGIN; SET LOCAL vault_ext.allow_alter = on;
         ALTER TABLE vault_ext.encryption_vault_audit ADD CONSTRAINT no CHECK (user_id <> 'alice') NOT VALID; COMMIT",
    );
    expect_vault_error(fetch(&mut app.app_for("alice")), "55000");
    monitoring.wait_for_alert("VaultAuditFailures", "app");
    app.force("SET vault_ext.allow_alter = on; ALTER TABLE vault_ext.encryption_vault_audit DROP CONSTRAINT no");
    let mut locker = app.superuser();
    locker.batch_execute("BEGIN; LOCK TABLE vault_ext.encryption_vault_audit").unwrap();
    let mut caller = app.app_for("alice");
    let call = std::thread::spawn(move || fetch(&mut caller).is_err());
    for alert in ["VaultAuditWriterBlocked", "VaultKeysNotReleased"] {
        monitoring.wait_for_alert(alert, "app");
    }
    // The query of the tree reads the locked trail, and does not hold up the others for long.
    monitoring.wait_for("pg_exporter_last_scrape_error", 1.0);
    locker.batch_execute("ROLLBACK").unwrap();
    call.join().unwrap();
    app.force("UPDATE vault_ext.encryption_vaults SET wrap_iv = (SELECT wrap_iv FROM vault_ext.encryption_vaults WHERE user_id = 'alice') WHERE user_id = 'bob'");
    monitoring.run(&check);
    monitoring.wait_for_alert("VaultsDoNotOpen", "app");
    let of_other = |(_, database): &(String, String)| database == "other";
    assert!(!monitoring.alerts().iter().any(of_other), "{:?}", monitoring.alerts());
}

#[test]
fn the_other_exporter_gives_the_same_series() {
    let (_cluster, mut monitoring) = server();
    let [roles, check, ..] = steps();
    monitoring.run(&roles);
    monitoring.run(&check);
    let exporter = monitoring.start_sql_exporter();
    monitoring.start_prometheus(&block("yaml")[1], "127.0.0.1:9237", exporter);
    let reference = monitoring.start_postgres_exporter();
    // What one exporter delivers, as Prometheus stores what it scrapes from the other.
    let series = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap().to_owned();
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
        let labels: BTreeSet<String> = labels
            .split("\",")
            .map(|label| label.trim_end_matches('"').to_owned())
            .filter(|label| !label.starts_with("server=") && !label.is_empty())
            .collect();
        (name, labels)
    };
    let is_ours = |line: &&str| line.starts_with("vault_ext_") && !line.starts_with("vault_ext_health_queued");
    eventually(SOON, "the first exporter answers", || get(reference, "/metrics").is_some());
    let expected: BTreeSet<_> = get(reference, "/metrics").unwrap().lines().filter(is_ours).map(series).collect();
    assert!(expected.len() > 100, "{expected:?}");
    let stored = || -> BTreeSet<_> {
        let stored = monitoring.query("{__name__=~\"vault_ext_.+\", __name__!=\"vault_ext_health_queued\"}");
        let series = |series: &Series| {
            let labels = series.labels.as_object().unwrap().iter();
            let labels = labels.filter(|(name, _)| !["__name__", "instance", "job"].contains(&name.as_str()));
            let shown = labels.map(|(name, value)| format!("{name}=\"{}", value.as_str().unwrap()));
            // Prometheus keeps no label that is empty.
            (series.label("__name__").to_owned(), shown.filter(|label| !label.ends_with("=\"")).collect())
        };
        stored.iter().map(series).collect()
    };
    eventually(SOON, "the other one answers", || get(exporter, "/metrics").is_some());
    eventually(SOON, "all series are there", || expected.difference(&stored()).next().is_none());
    let stored = stored();
    let more: Vec<_> = stored.difference(&expected).collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Nothing is released on a standby, and whoever is paged for that is paged for nothing.
#[test]
fn a_standby_is_watched_without_an_error_or_an_alert() {
    let (mut cluster, mut monitoring) = server();
    let [roles, check, ..] = steps();
    monitoring.run(&roles);
    monitoring.run(&check);
    let leaves: i64 = cluster.existing_database("app").value("SELECT count(*) FROM vault_ext.encryption_vault_audit");
    cluster.restart_as_standby();
    let exporter = monitoring.start_postgres_exporter();
    monitoring.start_prometheus(&block("yaml")[0], "127.0.0.1:9187", exporter);
    for (metric, value) in [
        ("vault_ext_health_in_recovery", 1.0),
        ("vault_ext_health_ok", 0.0),
        ("vault_ext_kek_vaults", 2.0),
        ("vault_ext_check_vaults", 2.0),
        ("vault_ext_checkpoint_size", 1.0),
        ("vault_ext_trail_leaves", leaves as f64),
    ] {
        monitoring.wait_for(&format!("{metric}{{datname=\"app\"}}"), value);
    }
    monitoring.wait_for("pg_exporter_last_scrape_error", 0.0);
    // Before the first scrape nothing is watched.
    eventually(SOON, "no alert", || monitoring.alerts().is_empty());
}

#[test]
fn every_alert_and_every_metric_is_documented() {
    let documented = include_str!("../../docs/monitoring.md");
    for alert in ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(documented.contains(&format!("`{alert}`")), "{alert} is not in docs/monitoring.md");
    }
    let mut namespace = "";
    for line in QUERIES.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with("vault_ext_")) {
            namespace = name;
        }
        let metric = line.strip_prefix("    - ").filter(|line| !line.contains("usage: LABEL"));
        if let Some((metric, _)) = metric.and_then(|line| line.split_once(": {usage")) {
            assert!(
                documented.contains(&format!("`{namespace}_{metric}`")),
                "{namespace}_{metric} is not in docs/monitoring.md"
            );
        }
    }
}
