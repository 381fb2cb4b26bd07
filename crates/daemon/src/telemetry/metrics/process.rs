//! What the kernel reports about this process.

use std::fs;
use std::io;

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
    pub(super) threads: u64,
    pub(super) start_time_seconds: f64,
}

impl Process {
    /// Reads `/proc`.
    pub(super) fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let boot = fs::read_to_string("/proc/stat")?;
        let limits = fs::read_to_string("/proc/self/limits")?;
        // One of the entries is the open directory itself.
        let open_fds = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        parse(&stat, &boot, &limits, open_fds as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "/proc has an unknown format")
        })
    }
}

fn parse(stat: &str, boot: &str, limits: &str, open_fds: u64) -> Option<Process> {
    let ticks_per_second = super::float(rustix::param::clock_ticks_per_second());
    let page_bytes = rustix::param::page_size() as u64;
    // proc_pid_stat(5): the second field, in parentheses, may hold anything; field N is at N - 3
    // of what follows.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let boot_time: u64 = line_after(boot, "btime ")?.trim().parse().ok()?;
    let soft_limit = line_after(limits, "Max open files")?
        .split_whitespace()
        .next()?;
    Some(Process {
        cpu_seconds: super::float(field(14)? + field(15)?) / ticks_per_second,
        threads: field(20)?,
        start_time_seconds: super::float(boot_time) + super::float(field(22)?) / ticks_per_second,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_bytes,
        open_fds,
        // "unlimited" is no number.
        max_fds: soft_limit.parse().unwrap_or(u64::MAX),
    })
}

fn line_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_about_itself() {
        let process = Process::read().expect("there is a /proc");
        assert!(process.resident_bytes > 1 << 20, "{process:?}");
        assert!(
            process.virtual_bytes >= process.resident_bytes,
            "{process:?}"
        );
        assert!(process.threads >= 1 && process.open_fds >= 1, "{process:?}");
        assert!(process.max_fds >= process.open_fds, "{process:?}");
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("it is after 1970")
            .as_secs_f64();
        let age = now - process.start_time_seconds;
        assert!((-2.0..86_400.0).contains(&age), "{process:?}");
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1000 8192 2 \
                    18446744073709551615";
        let limits = "Limit   Soft Limit\nMax open files            1024      4096      files\n";
        let process = parse(stat, "cpu 1\nbtime 100\n", limits, 5).expect("it can be read");
        assert_eq!((process.threads, process.virtual_bytes), (9, 8192));
        assert_eq!(process.max_fds, 1024);
        assert!(process.cpu_seconds > 0.0 && process.start_time_seconds > 100.0);
    }
}
