//! Follows a section of the examples' README, like a reader.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::{
    Builder, Cluster, assert_no_secrets, base64, chown_to_server, decode, fetch, init, rotate, server_command,
};

pub const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kek-providers");
const STAND_INS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/kek_providers/stand_ins");
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A section of the README, and the server that follows it.
pub struct HowTo {
    pub cluster: Cluster,
    pub section: String,
    /// The work of systemd or the kubelet between a change of the secret and the server's next read.
    pub deliver: fn(&Self),
}

/// A fault, as a shell command, with the provider's exit code and a part of its message. If the provider succeeds, the
/// message is the server's.
pub struct Trouble(pub &'static str, pub i32, pub &'static str);

impl HowTo {
    pub fn open(heading: &str) -> Self {
        Self::open_on(heading, Cluster::builder())
    }

    pub fn open_on(heading: &str, builder: Builder) -> Self {
        let readme = read(&Path::new(EXAMPLES).join("README.md"));
        let (_, section) =
            readme.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n## ").next().unwrap_or(section).to_owned();
        let how_to = HowTo { cluster: builder.without_fsync().prepare(), section, deliver: |_| () };
        for folder in ["bin", "stand-ins", "etc", "etc/credstore"] {
            make_dir(&how_to.dir().join(folder), 0o700);
        }
        for script in scripts() {
            let name = script.file_name().expect("a name");
            how_to.program(&Path::new("bin").join(name), &read(&script));
        }
        how_to
    }

    pub fn needs(self, program: &str, package: &str) -> Self {
        let found = PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
        assert!(found, "{program} is missing: apt-get install {package}");
        self
    }

    /// Installs a stand-in that is found before a real program of this name.
    pub fn stand_in(&self, name: &str, text: &str) {
        self.program(&Path::new("stand-ins").join(name), text);
    }

    fn program(&self, path: &Path, text: &str) {
        let path = self.dir().join(path);
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("the program's mode can be set");
    }

    pub fn dir(&self) -> &Path {
        self.cluster.dir()
    }

    pub fn etc(&self, name: &str) -> PathBuf {
        self.dir().join("etc").join(name)
    }

    /// The README's text with this test's folders.
    pub fn here(&self, text: &str) -> String {
        let folders = [
            ("/usr/local/lib/vault_ext", "bin"),
            ("/etc/vault_ext", "etc"),
            ("/etc/credstore.encrypted", "etc/credstore"),
            ("/run/credentials/postgresql@15-main.service", "etc/credentials"),
            ("/run/secrets/vault_ext", "etc/volume"),
        ];
        folders.iter().fold(text.to_owned(), |text, (theirs, ours)| {
            text.replace(theirs, &self.dir().join(ours).display().to_string())
        })
    }

    /// Runs one of the section's `sh` blocks: the first makes a keyring, the second adds a KEK.
    pub fn follow_block(&self, index: usize) {
        let block = self.section.split("```sh\n").nth(index + 1).and_then(|rest| rest.split("\n```").next());
        let block = self.here(block.unwrap_or_else(|| panic!("no block {index} in: {}", self.section)));
        let output = server_command("/bin/bash", self.dir())
            .args(["-eo", "pipefail", "-c", &block])
            .env_clear()
            .env("PATH", format!("{}/stand-ins:{PATH}", self.dir().display()))
            .env("SYSTEMD_CREDENTIAL_SECRET", self.etc("host-secret"))
            .env("STAND_IN_SECRET", self.etc("secret"))
            .output()
            .expect("bash starts");
        assert!(output.status.success(), "block {index}: {}", String::from_utf8_lossy(&output.stderr));
        (self.deliver)(self);
    }

    /// The value for vault_ext.kek_command.
    pub fn command(&self) -> String {
        let line = self.section.split("\nvault_ext.kek_command = '").nth(1).and_then(|rest| rest.split("'\n").next());
        let line = self.here(line.expect("a line for postgresql.conf"));
        let stand_ins = self.dir().join("stand-ins");
        // A real component must be found without this PATH: a server's environment may have none.
        if fs::read_dir(&stand_ins).expect("the folder of stand-ins is readable").next().is_none() {
            return line;
        }
        format!("PATH={}:{PATH} {line}", stand_ins.display())
    }

    pub fn configure(&mut self, command: &str) {
        self.cluster.configure(&format!("vault_ext.kek_command = '{command}'"));
    }

    /// Runs the provider as the README tells a DBA to if the server refuses to start.
    pub fn run(&self, command: &str) -> Output {
        server_command("/bin/sh", &self.cluster.data())
            .args(["-c", command])
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .expect("/bin/sh starts")
    }

    /// The ids and keys that the provider prints. Standard error must not show them.
    pub fn keyring(&self) -> Vec<(String, Vec<u8>)> {
        let output = self.run(&self.command());
        let said = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8(output.stdout).expect("a keyring is text");
        let keks: Vec<_> = text
            .lines()
            .map(|line| line.split_once(' ').map(|(id, key)| (id.to_owned(), decode(key))).expect("an id and a key"))
            .collect();
        assert!(!keks.iter().any(|(_, key)| said.contains(&base64(key))), "standard error shows a KEK");
        assert!(output.status.success(), "{}: {said}", output.status);
        keks
    }

    /// Creates the keyring, starts the server and makes keys. Then adds a KEK, restarts, and checks all keys again.
    pub fn works(mut self) {
        self.follow_block(0);
        let first = self.keyring();
        assert_eq!(ids(&first), ["kek-2026"]);
        self.configure(&self.command());
        self.cluster.start();
        let db = self.cluster.database("d");
        let alice = init(&mut db.app_for("alice")).unwrap();
        assert_eq!(alice.kek_id, "kek-2026");
        assert!(fetch(&mut db.app_for("alice")).unwrap() == alice);
        drop(db);

        self.follow_block(1);
        let second = self.keyring();
        assert_eq!(ids(&second), ["kek-2027", "kek-2026"]);
        assert!(second[1] == first[0] && second[0].1 != first[0].1);
        self.cluster.restart();
        let db = self.cluster.existing_database("d");
        assert!(fetch(&mut db.app_for("alice")).unwrap() == alice);
        let bob = init(&mut db.app_for("bob")).unwrap();
        assert_eq!(bob.kek_id, "kek-2027");
        let rotated = rotate(&mut db.app_for("alice")).unwrap();
        assert_eq!(rotated.kek_id, "kek-2027");
        let mut secrets: Vec<_> = second.into_iter().map(|(_, key)| key).collect();
        secrets.extend([alice, bob, rotated].iter().map(|key| decode(&key.master_key)));
        assert_no_secrets(&self.cluster, &[], &secrets);
    }

    /// Each fault alone keeps the server from starting, is explained to anyone who runs the provider by hand, and shows
    /// no secret: neither a KEK nor the contents of the `protected` files.
    pub fn refuses(mut self, protected: &[&str], troubles: &[Trouble]) {
        self.follow_block(0);
        let mut secrets: Vec<_> = self.keyring().into_iter().map(|(_, key)| key).collect();
        secrets.extend(protected.iter().map(|name| fs::read(self.etc(name)).expect("the protected file is readable")));
        self.configure(&self.command());
        for Trouble(make, code, explained) in troubles {
            self.shell("cp -a etc good");
            self.shell(make);
            let output = self.run(&self.command());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let log = self.cluster.start_expect_failure();
            assert_no_secrets(&self.cluster, std::slice::from_ref(&said), &secrets);
            assert_eq!(output.status.code(), Some(*code), "{make}: {said}");
            if *code == 0 {
                assert!(log.contains(explained), "{make}: {log}");
            } else {
                assert!(said.contains(explained), "{make}: {said}");
                assert!(log.contains(&format!("vault_ext.kek_command ended with exit code {code}\n")), "{make}: {log}");
            }
            assert!(log.contains("HINT:  "), "{make}: {log}");
            self.shell("chmod -R u+rwX etc; rm -rf etc; mv good etc");
        }
        self.cluster.start(); // so only the fault kept it from starting
    }

    /// Runs a command as the tests' user, in the server's folder.
    pub fn shell(&self, command: &str) {
        let status = Command::new("/bin/sh").args(["-ec", command]).current_dir(self.dir()).status();
        assert!(status.expect("/bin/sh starts").success(), "{command}");
    }
}

pub fn scripts() -> Vec<PathBuf> {
    let entries = fs::read_dir(EXAMPLES).expect("the examples are readable");
    let paths = entries.map(|entry| entry.expect("the example is readable").path());
    let scripts: Vec<_> = paths.filter(|path| path.extension().is_none()).collect();
    assert_eq!(scripts.len(), 7, "{scripts:?}");
    scripts
}

/// The text of a stand-in program.
pub fn stand_in(name: &str) -> String {
    read(&Path::new(STAND_INS).join(name))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

pub fn make_dir(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("the folder's mode can be set");
    chown_to_server(path);
}

pub fn ids(keyring: &[(String, Vec<u8>)]) -> Vec<&str> {
    keyring.iter().map(|(id, _)| id.as_str()).collect()
}
