//! The process's own use of the machine, under the names that every Prometheus client library uses.

use crate::encode::{family, sample};

/// Appends what the kernel says about this process; what it does not say is left out.
pub(crate) fn encode(text: &mut String) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
    if let Some(seconds) = read("stat").as_deref().and_then(cpu_seconds) {
        let name = "process_cpu_seconds_total";
        family(text, name, "CPU time that was used, user and system.", "counter");
        sample(text, name, "", format_args!("{seconds:.2}"));
    }
    if let Some(bytes) = read("status").as_deref().and_then(resident_bytes) {
        let name = "process_resident_memory_bytes";
        family(text, name, "Memory that is resident.", "gauge");
        sample(text, name, "", bytes);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let name = "process_open_fds";
        family(text, name, "Descriptors that are open.", "gauge");
        sample(text, name, "", entries.count());
    }
}

/// Fields 14 and 15 of `proc_pid_stat(5)`, in ticks of 1/100 s (Linux's `USER_HZ` on every architecture that this builds for).
fn cpu_seconds(stat: &str) -> Option<f64> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(cpu_seconds(""), None);
    }
}
