//! Each how-to in the README of examples/kek-providers is followed on its own server, with the real component or, if
//! that is not available, with a stand-in. The tests change only the folders in its commands.

mod how_to;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use self::how_to::{EXAMPLES, HowTo, PATH, Trouble, ids, make_dir, scripts, stand_in};
use crate::harness::{Builder, Cluster, chown_to_server, init, scratch_dir, server_command};

fn age() -> HowTo {
    HowTo::open("age").needs("age", "age")
}

#[test]
fn age_works() {
    age().works();
}

#[test]
fn age_refuses() {
    age().refuses(
        &["identity"],
        &[
            Trouble("rm etc/identity", 66, "cannot read"),
            Trouble("rm etc/keyring.age", 66, "cannot read"),
            Trouble("chmod 640 etc/identity", 77, "open to other users"),
            Trouble("age-keygen 2> etc/out > etc/other; cat etc/other > etc/identity", 69, "does not decrypt"),
            Trouble("sed s/KEY-1../KEY-1/ etc/identity > cut; cat cut > etc/identity", 69, "does not decrypt"),
            Trouble("truncate -s -20 etc/keyring.age", 69, "does not decrypt"),
            Trouble(
                "printf another | dd of=etc/keyring.age bs=1 seek=230 conv=notrunc status=none",
                69,
                "does not decrypt",
            ),
            Trouble(
                "age -r $(age-keygen -y etc/identity) -o etc/keyring.age < /dev/null",
                0,
                "vault_ext.kek_command printed nothing",
            ),
        ],
    );
}

fn pkcs11() -> HowTo {
    let how_to = HowTo::open("PKCS#11").needs("pkcs11-tool", "opensc").needs("openssl", "openssl");
    assert!(Path::new("/usr/lib/softhsm/libsofthsm2.so").exists(), "SoftHSM2 is missing: apt-get install softhsm2");
    how_to
}

#[test]
fn pkcs11_works() {
    pkcs11().works();
}

#[test]
fn pkcs11_refuses() {
    pkcs11().refuses(
        &["pin", "so-pin"],
        &[
            Trouble("echo 00000000 > etc/pin", 69, "CKR_PIN_INCORRECT"),
            Trouble(": > etc/pin", 65, "is empty"),
            Trouble("rm etc/pin", 66, "cannot read"),
            Trouble("chmod 604 etc/pin", 77, "open to other users"),
            Trouble("rm -r etc/tokens/*", 69, "does not decrypt"),
            Trouble("rm etc/softhsm2.conf", 69, "does not decrypt"),
            Trouble("rm etc/keks/active", 66, "cannot read"),
            Trouble(": > etc/keks/active", 65, "is empty"),
            Trouble("rm etc/keks/kek-2026", 66, "cannot read"),
            Trouble("truncate -s -1 etc/keks/kek-2026", 69, "does not decrypt"),
            Trouble(
                "printf another | dd of=etc/keks/kek-2026 bs=1 seek=20 conv=notrunc status=none",
                69,
                "does not decrypt",
            ),
            Trouble("mv etc/keks/kek-2026 etc/keks/kek-2025; echo kek-2025 > etc/keks/active", 65, "of another name"),
        ],
    );
}

#[test]
fn the_key_in_the_token_cannot_be_read() {
    let how_to = pkcs11();
    how_to.follow_block(0);
    let output = how_to.run(&how_to.here(&format!(
        "export PATH={PATH} SOFTHSM2_CONF=/etc/vault_ext/softhsm2.conf; PIN=$(cat /etc/vault_ext/pin) pkcs11-tool \
         --module /usr/lib/softhsm/libsofthsm2.so --token-label vault_ext --login --pin env:PIN --list-objects"
    )));
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(listed.contains("Private Key Object; RSA"), "{listed}");
    assert!(listed.contains("sensitive, always sensitive, never extractable, local"), "{listed}");
}

#[test]
fn the_pin_is_in_no_argument() {
    let how_to = pkcs11();
    how_to.follow_block(0);
    let spy = "#!/bin/sh\nprintf '%s\\n' \"$@\" >> /etc/vault_ext/arguments\nexec /usr/bin/pkcs11-tool \"$@\"\n";
    how_to.stand_in("pkcs11-tool", &how_to.here(spy));
    assert_eq!(ids(&how_to.keyring()), ["kek-2026"]);
    let arguments = fs::read_to_string(how_to.etc("arguments")).expect("the spy recorded its arguments");
    assert!(arguments.contains("--decrypt\n"), "{arguments}");
    assert!(!arguments.contains(fs::read_to_string(how_to.etc("pin")).expect("the PIN").trim()));
}

/// Decrypts the credential as systemd does when it starts a unit. The unit's user can only read the folder and its
/// files.
fn systemd(builder: Builder) -> HowTo {
    let mut how_to = HowTo::open_on("systemd", builder).needs("systemd-creds", "systemd");
    how_to.deliver = |how_to| {
        let script = how_to.here(
            "umask 077
             cd /etc/vault_ext
             [ ! -d credentials ] || chmod 700 credentials; rm -rf credentials; mkdir credentials
             systemd-creds decrypt --name=vault_ext.keyring credstore/vault_ext.keyring credentials/vault_ext.keyring
             chmod 440 credentials/vault_ext.keyring
             chmod 500 credentials",
        );
        let output = server_command("/bin/sh", how_to.dir())
            .args(["-ec", &script])
            .env("SYSTEMD_CREDENTIAL_SECRET", how_to.etc("host-secret"))
            .output();
        let output = output.expect("/bin/sh starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    how_to
}

#[test]
fn systemd_works() {
    systemd(Cluster::builder()).works();
}

#[test]
fn systemd_refuses() {
    systemd(Cluster::builder()).refuses(
        &[],
        &[
            Trouble("chmod 700 etc/credentials; rm etc/credentials/vault_ext.keyring", 66, "loaded by the unit"),
            Trouble("chmod 0 etc/credentials", 66, "User="),
            Trouble("chmod 600 etc/credentials/*; : > etc/credentials/vault_ext.keyring", 65, "is empty"),
            Trouble(
                "chmod 600 etc/credentials/*; truncate -s -9 etc/credentials/vault_ext.keyring",
                0,
                "line 1 of the",
            ),
        ],
    );
}

#[test]
fn a_unit_that_passes_its_environment_on_needs_no_folder_in_the_command() {
    let folder = scratch_dir();
    let mut how_to = systemd(Cluster::builder().env("CREDENTIALS_DIRECTORY", &folder.display().to_string()));
    how_to.follow_block(0);
    let assignment = how_to.here("CREDENTIALS_DIRECTORY=/run/credentials/postgresql@15-main.service ");
    let command = how_to.command().replace(&assignment, "");
    let output = how_to.run(&command);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CREDENTIALS_DIRECTORY is not set"));

    let credential = folder.join("vault_ext.keyring");
    fs::copy(how_to.etc("credentials/vault_ext.keyring"), &credential).expect("the credential can be copied");
    chown_to_server(&credential);
    how_to.configure(&command);
    how_to.cluster.start();
    assert_eq!(init(&mut how_to.cluster.database("d").app_for("alice")).unwrap().kek_id, "kek-2026");
}

#[test]
fn systemd_accepts_the_drop_in_unit() {
    let how_to = systemd(Cluster::builder());
    let unit = how_to
        .section
        .split("```ini\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the section has a drop-in");
    let verdict = |text: &str| {
        let path = how_to.etc("drop-in.service");
        fs::write(&path, format!("{text}ExecStart=/bin/true\n")).expect("the unit file is writable");
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
        String::from_utf8_lossy(&output.expect("systemd-analyze starts").stderr).into_owned()
    };
    assert_eq!(verdict(unit), "");
    assert!(verdict(&unit.replace("LoadCredential", "LoadCredentials")).contains("Unknown key"));
}

/// Lays out the volume as the kubelet does: a folder for each version, the link ..data to the current one, and links
/// through ..data. Root owns the files and the pod's group can read them. If the tests do not run as root, the server's
/// user owns them.
fn kubernetes() -> HowTo {
    let mut how_to = HowTo::open("Kubernetes");
    how_to.stand_in("kubectl", &stand_in("kubectl"));
    how_to.deliver = |how_to| {
        let volume = how_to.etc("volume");
        if !volume.exists() {
            make_dir(&volume, 0o750);
        }
        let old = fs::read_link(volume.join("..data")).ok();
        let version = format!("..{}", fs::read_dir(how_to.etc("secret")).expect("the Secret is readable").count());
        let folder = volume.join(&version);
        make_dir(&folder, 0o750);
        for entry in fs::read_dir(how_to.etc("secret")).expect("the Secret is readable") {
            let source = entry.expect("the Secret's entry is readable").path();
            let name = source.file_name().expect("a name");
            let file = folder.join(name);
            fs::copy(&source, &file).expect("the file can be copied into the volume");
            fs::set_permissions(&file, Permissions::from_mode(0o440)).expect("the file's mode can be set");
            give_to_root(&file);
            if fs::symlink_metadata(volume.join(name)).is_err() {
                symlink(Path::new("..data").join(name), volume.join(name)).expect("the link in the volume can be made");
            }
        }
        give_to_root(&folder);
        symlink(&version, volume.join("..data_tmp")).expect("the link to the new version can be made");
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("..data can be replaced");
        give_to_root(&volume);
        if let Some(old) = old {
            fs::remove_dir_all(volume.join(old)).expect("the old version can be removed");
        }
    };
    how_to
}

/// Makes root the owner and leaves the group to the server's.
fn give_to_root(path: &Path) {
    chown_to_server(path);
    if rustix::process::geteuid().is_root() {
        chown(path, Some(0), None).unwrap_or_else(|e| panic!("cannot chown {}: {e}", path.display()));
    }
}

#[test]
fn kubernetes_works() {
    kubernetes().works();
}

#[test]
fn kubernetes_refuses() {
    kubernetes().refuses(
        &[],
        &[
            Trouble("rm -r etc/volume", 66, "cannot enter"),
            Trouble("rm etc/volume/..data/active", 66, "cannot read active"),
            Trouble("rm etc/volume/..data/kek-2026", 66, "cannot read kek-2026"),
            Trouble("chmod 640 etc/volume/..data/active; echo gone > etc/volume/..data/active", 66, "cannot read gone"),
            Trouble("chmod 640 etc/volume/..data/active; : > etc/volume/..data/active", 65, "is empty"),
            Trouble("chmod 640 etc/volume/..data/*; : > etc/volume/..data/kek-2026", 65, "is empty"),
            Trouble(
                "chmod 640 etc/volume/..data/*; cp etc/volume/..data/kek-2026 key; { cat key; echo; cat key; } > etc/volume/..data/kek-2026",
                65,
                "not one line of base64",
            ),
            Trouble("chmod 640 etc/volume/..data/*; truncate -s 40 etc/volume/..data/kek-2026", 0, "has 30 bytes, not 32"),
        ],
    );
}

/// The kubelet updates the volume while the provider reads it: after the first file, ..data points to the new version.
#[test]
fn kubernetes_does_not_mix_versions() {
    let how_to = kubernetes();
    how_to.follow_block(0);
    let old = how_to.keyring();
    how_to.shell("cp -a etc/volume/..data/ etc/volume/..old");
    how_to.follow_block(1);
    assert_eq!(how_to.keyring().len(), 2);
    how_to.shell("cd etc/volume; mv \"$(readlink ..data)\" ..new; ln -sfn ..old ..data");
    assert!(how_to.keyring() == old);
    let turn = "#!/bin/sh\n/bin/cat \"$@\"\nln -sfn ..new /run/secrets/vault_ext/..data\n";
    how_to.stand_in("cat", &how_to.here(turn));
    how_to.shell("chmod 777 etc/volume");
    assert!(how_to.keyring() == old);
    assert_eq!(fs::read_link(how_to.etc("volume/..data")).unwrap(), Path::new("..new"));
}

fn aws_kms() -> HowTo {
    let how_to = HowTo::open("AWS KMS");
    how_to.stand_in("aws", &stand_in("aws"));
    how_to
}

#[test]
fn aws_kms_works_with_a_stand_in() {
    aws_kms().works();
}

#[test]
fn aws_kms_refuses() {
    aws_kms().refuses(
        &[],
        &[
            Trouble("rm etc/keyring.kms", 66, "cannot read"),
            Trouble("echo denied >> etc/keyring.kms", 69, "AccessDeniedException"),
            Trouble("echo garbled >> etc/keyring.kms", 65, "not base64"),
        ],
    );
}

fn gcloud_kms() -> HowTo {
    let how_to = HowTo::open("Google Cloud KMS");
    how_to.stand_in("gcloud", &stand_in("gcloud"));
    how_to
}

#[test]
fn gcloud_kms_works_with_a_stand_in() {
    gcloud_kms().works();
}

#[test]
fn gcloud_kms_refuses() {
    gcloud_kms().refuses(
        &[],
        &[
            Trouble("rm etc/keyring.gkms", 66, "cannot read"),
            Trouble("rm etc/aad", 66, "cannot read"),
            Trouble("echo other > etc/aad", 69, "INVALID_ARGUMENT"),
        ],
    );
}

fn vault_transit() -> HowTo {
    let how_to = HowTo::open("HashiCorp Vault and OpenBao");
    how_to.stand_in("vault", &stand_in("vault"));
    how_to.cluster.write_kek("etc/token", "the-token-of-the-test", 0o600);
    how_to
}

#[test]
fn vault_transit_works_with_a_stand_in() {
    vault_transit().works();
}

#[test]
fn vault_transit_works_with_openbao_s_names() {
    let how_to = vault_transit();
    how_to.follow_block(0);
    let keyring = how_to.run(&how_to.command()).stdout;
    how_to.shell("mv stand-ins/vault stand-ins/bao");
    let output = how_to.run(&how_to.command().replace("VAULT_ADDR=", "VAULT_CLI=bao BAO_ADDR="));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"kek-2026 ") && output.stdout == keyring);
}

#[test]
fn vault_transit_refuses() {
    vault_transit().refuses(
        &["token"],
        &[
            Trouble("rm etc/token", 66, "cannot read"),
            Trouble("chmod 644 etc/token", 77, "open to other users"),
            Trouble("echo another-token > etc/token", 69, "permission denied"),
            Trouble("echo rubbish > etc/keyring.vault", 69, "invalid ciphertext"),
        ],
    );
}

#[test]
fn every_provider_prints_its_usage() {
    for script in scripts() {
        let output = Command::new(&script).env_clear().output().expect("a provider starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{}: {said}", script.display());
        assert!(said.contains("usage: ") && output.stdout.is_empty(), "{}: {said}", script.display());
    }
}

#[test]
fn a_provider_without_its_component_names_the_missing_program() {
    for (script, arguments, program) in [
        ("age-keyring", 2, "age"),
        ("pkcs11-keyring", 5, "pkcs11-tool"),
        ("aws-kms-keyring", 3, "aws"),
        ("gcloud-kms-keyring", 3, "gcloud"),
        ("vault-transit-keyring", 3, "vault"),
    ] {
        let script = Path::new(EXAMPLES).join(script);
        let output = Command::new(&script)
            .args(vec!["/dev/null"; arguments])
            .env_clear()
            .env("PATH", "/nowhere")
            .output()
            .expect("a provider starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{}: {said}", script.display());
        assert!(said.contains(&format!("the program {program} is not installed")), "{said}");
        assert!(output.stdout.is_empty());
    }
}
