//! `bartizan logs`: what workloads and proxies print, and the access log.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::args::{LogsArgs, Output};
use crate::place::Place;

/// Between two looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The name of an access log.
const ACCESS: &str = "access.jsonl";

/// Prints the last lines, and with `--follow` goes on.
///
/// # Errors
/// When there is no such workload, or a file cannot be read.
pub(crate) fn run(place: &Place, args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let mut offsets: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut first = true;
    loop {
        let files = files(place, args)?;
        if first && files.is_empty() && !args.follow {
            return nothing(place, args);
        }
        let many = files.len() > 1;
        let mut lines: Vec<(String, String)> = Vec::new();
        for file in &files {
            let offset = offsets.get(&file.path).copied();
            let (text, end) = read(&file.path, offset, if first { args.tail } else { usize::MAX })?;
            offsets.insert(file.path.clone(), end);
            for line in text.lines() {
                let (time, line) = if args.access {
                    (started(line), line.to_owned())
                } else if args.output == Output::Json {
                    (printed(line), parts(&file.name, line).to_string())
                } else if many {
                    (printed(line), format!("{} {}", file.name, shown(line)))
                } else {
                    ("", shown(line).to_owned())
                };
                lines.push((time.to_owned(), line));
            }
        }
        // What several have printed comes in the order of time; times of a format that sorts as text.
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        for (_, line) in lines {
            if writeln!(out, "{line}").is_err() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if !args.follow || (!first && !place.is_occupied()) {
            return Ok(ExitCode::SUCCESS);
        }
        first = false;
        out.flush().ok();
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Nothing was found: because nothing was printed, or because nothing has this name.
fn nothing(place: &Place, args: &LogsArgs) -> anyhow::Result<ExitCode> {
    if !place.is_occupied() && folders(&place.logs())?.is_empty() {
        place.must_run()?;
    }
    let what = match (&args.workload, args.access) {
        (_, true) => "no request was logged yet".to_owned(),
        (Some(workload), false) => format!("`{workload}` has printed nothing yet"),
        (None, false) => "nothing was printed yet".to_owned(),
    };
    if let (Some(workload), true) = (&args.workload, place.is_occupied()) {
        let status = crate::with_runtime(crate::admin::status(place))?;
        let mut containers: Vec<&str> = status
            .workloads
            .iter()
            .filter(|pod| fits(workload, pod.name.namespace.as_str(), pod.name.name.as_str()))
            .flat_map(|pod| {
                pod.containers
                    .iter()
                    .map(|container| container.name.as_str())
                    .chain(["proxy"])
            })
            .collect();
        containers.sort_unstable();
        containers.dedup();
        if containers.is_empty() {
            bail!("no workload `{workload}` runs and none has left a log; `bartizan status` lists them");
        }
        if let Some(container) = args
            .container
            .as_deref()
            .filter(|name| !containers.contains(name))
        {
            bail!(
                "`{workload}` has no container `{container}`; it has {}",
                containers.join(", ")
            );
        }
    }
    eprintln!("{what}");
    Ok(ExitCode::SUCCESS)
}

struct LogFile {
    /// `namespace/pod/container`.
    name: String,
    path: PathBuf,
}

fn files(place: &Place, args: &LogsArgs) -> anyhow::Result<Vec<LogFile>> {
    let mut found = Vec::new();
    for (namespace, folder) in folders(&place.logs())? {
        for (pod, folder) in folders(&folder)? {
            if !args
                .workload
                .as_deref()
                .is_none_or(|workload| fits(workload, &namespace, &pod))
            {
                continue;
            }
            let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
            for entry in entries.flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                let container = file.strip_suffix(bartizan_sandbox::supervise::CONTAINER_LOG_SUFFIX);
                let wanted = match container {
                    _ if args.access => file == ACCESS,
                    Some(container) => match &args.container {
                        Some(wanted) => wanted == container,
                        None => container != "proxy" || args.workload.is_some(),
                    },
                    None => false,
                };
                if wanted {
                    found.push(LogFile {
                        name: format!("{namespace}/{pod}/{}", container.unwrap_or("access")),
                        path: entry.path(),
                    });
                }
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `namespace/pod`, `pod`, or a controller's name in front of a replica's number.
pub(crate) fn fits(workload: &str, namespace: &str, pod: &str) -> bool {
    let name = match workload.split_once('/') {
        Some((wanted, name)) if wanted == namespace => name,
        Some(_) => return false,
        None => workload,
    };
    let replica = pod
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
    pod == name || replica
}

fn folders(path: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect())
}

/// What comes after `offset` (or the last `tail` lines), up to the last whole line.
fn read(path: &Path, offset: Option<u64>, tail: usize) -> anyhow::Result<(String, u64)> {
    let mut file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let length = file.metadata()?.len();
    // A file that became shorter was begun anew.
    let start = offset.filter(|offset| *offset <= length).unwrap_or(0);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length - start).read_to_end(&mut bytes)?;
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    bytes.truncate(whole);
    let end = start + whole as u64;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let skip = text.lines().count().saturating_sub(tail);
    let text = text
        .lines()
        .skip(skip)
        .fold(String::new(), |text, line| text + line + "\n");
    Ok((text, end))
}

/// When a line was printed.
fn printed(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// When the request of a line of the access log began.
fn started(line: &str) -> &str {
    line.strip_prefix("{\"start_time\":\"")
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default()
}

/// A line with its parts, for programs.
fn parts(name: &str, line: &str) -> serde_json::Value {
    let mut parts = line.splitn(4, ' ');
    let (time, stream, mark) = (parts.next(), parts.next(), parts.next());
    let (workload, container) = name.rsplit_once('/').unwrap_or((name, ""));
    serde_json::json!({
        "workload": workload,
        "container": container,
        "time": time,
        "stream": stream,
        "complete": mark == Some("F"),
        "line": parts.next().unwrap_or_default(),
    })
}

/// Without time, stream and mark.
fn shown(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_parts() {
        let line = parts("shop/cart-0/app", "2026-01-01T00:00:00.000Z stderr F a  b");
        let expected = serde_json::json!({
            "workload": "shop/cart-0", "container": "app", "time": "2026-01-01T00:00:00.000Z", "stream": "stderr",
            "complete": true, "line": "a  b",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_workload_is_a_pod_or_all_replicas_of_a_controller() {
        assert!(
            fits("shop/cart", "shop", "cart-0")
                && fits("cart-0", "shop", "cart-0")
                && fits("cart", "shop", "cart-12")
        );
        assert!(
            !fits("cart", "shop", "cart-db-0")
                && !fits("other/cart", "shop", "cart-0")
                && !fits("cart", "shop", "cart-")
        );
        let line = "2026-01-01T00:00:00.000Z stdout F a b c";
        assert_eq!(
            (printed(line), shown(line)),
            ("2026-01-01T00:00:00.000Z", "a b c")
        );
        assert_eq!(
            started(r#"{"start_time":"2026-01-01T00:00:00.000Z","method":"GET"}"#),
            "2026-01-01T00:00:00.000Z"
        );
    }
}
