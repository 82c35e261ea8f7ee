//! The machine that the benchmarks run on.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::figures::percentile;

/// The machine's facts by name, in the order of the report.
pub fn facts(data: &Path) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = line_of("/proc/cpuinfo", "model name");
    let (fast, slow) = fdatasync(data);
    vec![
        ("machine", format!("{cores} cores, {cpu}, {:.0} GiB of memory", memory() as f64 / f64::from(1 << 30))),
        ("kernel", output("uname", &["-srm"])),
        (
            "file system",
            output("df", &["--output=fstype,source", &data.display().to_string()]).lines().skip(1).collect(),
        ),
        ("fdatasync of 8 kB", format!("median {fast:.0} µs, p99 {slow:.0} µs")),
        ("date", output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        ("vault_ext", format!("{}, {}", env!("CARGO_PKG_VERSION"), commit())),
    ]
}

/// The machine's memory in bytes.
pub fn memory() -> u64 {
    let kibibytes = line_of("/proc/meminfo", "MemTotal");
    kibibytes.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// The commit, and whether the working tree has changes.
fn commit() -> String {
    let git = |args: &[&str]| output("git", &[&["-C", env!("CARGO_MANIFEST_DIR")], args].concat());
    let head = git(&["rev-parse", "--short", "HEAD"]);
    match (head.is_empty(), git(&["status", "--porcelain", "--untracked-files=no"]).is_empty()) {
        (true, _) => "not in git".to_owned(),
        (false, true) => format!("commit {head}"),
        (false, false) => format!("commit {head} with changes"),
    }
}

/// Overwrites a page and forces it to disk, as pg_test_fsync does. Returns the median and the 99th percentile in
/// microseconds.
fn fdatasync(dir: &Path) -> (f64, f64) {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path).expect("a file in the scratch folder");
    file.write_all(&[0; 8192]).and_then(|()| file.sync_all()).expect("the file is writable");
    let mut times: Vec<f64> = (0..500)
        .map(|_| {
            use std::os::unix::fs::FileExt;
            let start = Instant::now();
            file.write_all_at(&[1; 8192], 0).and_then(|()| file.sync_data()).expect("the file is writable");
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    fs::remove_file(&path).expect("the file is ours");
    times.sort_by(f64::total_cmp);
    (percentile(&times, 0.5), percentile(&times, 0.99))
}

fn line_of(file: &str, label: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(label)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// The value in kB of a line in a file below /proc/PID. None if the process no longer exists.
pub fn kilobytes(pid: i32, file: &str, label: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The seconds of processor time of a process and of those of its children that have ended, from /proc/PID/stat. None if the
/// process no longer exists.
pub fn processor_time(pid: i32) -> Option<f64> {
    // Linux counts here in hundredths of a second on every machine.
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may have blanks. After it come the state (field 3) and, as fields 14 to 17, utime, stime,
    // cutime and cstime.
    let (_, fields) = text.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(4).map(|field| field.parse::<f64>().expect("a number"));
    Some(ticks.sum::<f64>() / TICKS)
}

/// The seconds that a process ran, and those that it was ready to run while no processor was free, from /proc/PID/schedstat. None if
/// the process no longer exists.
pub fn scheduled(pid: i32) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let mut nanoseconds = text.split_whitespace().map(|number| number.parse::<f64>().expect("a number"));
    Some((nanoseconds.next()? / 1e9, nanoseconds.next()? / 1e9))
}

/// How often a process has waited for something and so left its processor. None if the process no longer exists.
pub fn voluntary_switches(pid: i32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}
