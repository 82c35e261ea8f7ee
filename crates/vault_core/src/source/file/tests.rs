use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::MAX_TEXT;
use super::*;

/// A folder with a data directory and a key file next to it.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(fixture.path("data")).expect("a folder");
        fixture.write("kek", b"env-v1 key\n");
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).expect("a file");
        self.chmod(name, 0o600);
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).expect("chmod");
    }

    fn read(&self, name: &str) -> Result<SecretText, FileProblem> {
        read(&self.path(name), &self.path("data"), Readers::OwnerOnly).map(|text| text.text)
    }

    fn error(&self, name: &str) -> FileProblem {
        self.read(name).err().expect("an error")
    }
}

#[test]
fn a_private_file_is_read_and_links_to_it_too() {
    let fixture = Fixture::new();
    symlink("kek", fixture.path("link")).expect("a link");
    for (name, mode) in [("kek", 0o600), ("link", 0o400)] {
        fixture.chmod("kek", mode);
        assert_eq!(fixture.read(name).expect("the text").expose_secret(), b"env-v1 key\n");
    }
}

#[test]
fn sizes_have_bounds() {
    let fixture = Fixture::new();
    fixture.write("most", &vec![b'#'; MAX_TEXT]);
    assert_eq!(fixture.read("most").expect("the text").expose_secret().len(), MAX_TEXT);
    fixture.write("more", &vec![b'#'; MAX_TEXT + 1]);
    assert!(matches!(fixture.error("more"), FileProblem::TooLarge));
    fixture.write("empty", b"");
    assert!(matches!(fixture.error("empty"), FileProblem::Empty));
}

#[test]
fn paths_that_lead_to_no_file_are_refused() {
    let fixture = Fixture::new();
    assert!(matches!(read(Path::new("kek"), &fixture.path("data"), Readers::OwnerOnly), Err(FileProblem::Relative)));
    assert!(matches!(fixture.error("absent"), FileProblem::Absent));
    assert!(matches!(fixture.error("kek/kek"), FileProblem::Absent));
    assert!(matches!(fixture.error("data"), FileProblem::Directory));
    symlink("absent", fixture.path("dangling")).expect("a link");
    assert!(matches!(fixture.error("dangling"), FileProblem::Absent));
    symlink("loop", fixture.path("loop")).expect("a link");
    assert!(matches!(fixture.error("loop"), FileProblem::Io(_)));
    rustix::fs::mknodat(rustix::fs::CWD, fixture.path("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    assert!(matches!(fixture.error("fifo"), FileProblem::NotRegular));
    let _socket = UnixListener::bind(fixture.path("socket")).expect("a socket");
    assert!(matches!(fixture.error("socket"), FileProblem::NotRegular));
    assert!(matches!(
        read(Path::new("/dev/null"), &fixture.path("data"), Readers::OwnerOnly),
        Err(FileProblem::NotRegular)
    ));
}

#[test]
fn others_may_not_read_or_write_it() {
    let fixture = Fixture::new();
    for mode in [0o640, 0o604, 0o620, 0o610, 0o601] {
        fixture.chmod("kek", mode);
        let problem = fixture.error("kek");
        assert_eq!(problem.to_string(), format!("has mode 0{mode:o}, which gives access to its group or to others"));
        assert_eq!(problem.hint(), "Run chmod 600 on it.");
    }
}

#[test]
fn it_belongs_to_the_server_or_to_root() {
    let fixture = Fixture::new();
    let file = File::open(fixture.path("kek")).expect("the file");
    let mut stat = rustix::fs::fstat(file).expect("its state");
    for (owner, server, accepted) in [(26, 26, true), (0, 26, true), (27, 26, false), (27, 0, false)] {
        stat.st_uid = owner;
        assert_eq!(check_file(&stat, server, Readers::OwnerOnly).is_ok(), accepted, "{owner} for {server}");
    }
}

#[test]
fn it_is_not_in_the_data_directory() {
    let fixture = Fixture::new();
    fixture.write("data/kek", b"env-v1 key\n");
    symlink("data/kek", fixture.path("link")).expect("a link");
    symlink("data", fixture.path("alias")).expect("a link");
    fixture.write("data-kek", b"env-v1 key\n");
    for name in ["data/kek", "data/../data/kek", "link", "alias/kek"] {
        assert!(matches!(fixture.error(name), FileProblem::InsideDataDirectory), "{name}");
    }
    let by_alias = read(&fixture.path("data/kek"), &fixture.path("alias"), Readers::OwnerOnly);
    assert!(matches!(by_alias, Err(FileProblem::InsideDataDirectory)));
    assert!(fixture.read("data-kek").is_ok());
}

#[test]
fn what_a_path_led_to_may_not_change() {
    let fixture = Fixture::new();
    fixture.write("other", b"env-v1 other\n");
    let stat = rustix::fs::stat(fixture.path("other")).expect("its state");
    let checked = check_place(&fixture.path("kek"), &stat, &fixture.path("data"));
    assert!(matches!(checked, Err(FileProblem::Replaced)));
}

#[test]
fn a_refused_open_says_so() {
    // Not by trying: root may open everything.
    assert!(matches!(FileProblem::from(Errno::ACCESS), FileProblem::PermissionDenied));
}

#[test]
fn a_file_that_anyone_may_read_says_so() {
    let fixture = Fixture::new();
    for (mode, outcome) in
        [(0o644, Some(false)), (0o640, Some(false)), (0o600, Some(true)), (0o664, None), (0o602, None)]
    {
        fixture.write("issuers", b"{}");
        fs::set_permissions(fixture.path("issuers"), fs::Permissions::from_mode(mode)).expect("a mode");
        let read = read(&fixture.path("issuers"), &fixture.path("data"), Readers::Anyone);
        assert_eq!(read.ok().map(|text| text.is_private), outcome, "{mode:o}");
    }
}
