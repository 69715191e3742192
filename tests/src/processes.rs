//! Which processes run, from `/proc`.

/// Processes that have this argument, with all their arguments.
pub fn processes_of(argument: &str) -> Vec<(i32, Vec<String>)> {
    all()
        .into_iter()
        .filter(|(_, arguments)| arguments.iter().any(|other| other == argument))
        .collect()
}

/// All processes below this one.
pub fn descendants(process: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all()
        .into_iter()
        .filter_map(|(child, _)| Some((child, parent(child)?)))
        .collect();
    let mut found = vec![process];
    let mut at = 0;
    while let Some(current) = found.get(at).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == current)
                .map(|(child, _)| *child),
        );
        at += 1;
    }
    found.remove(0);
    found
}

/// A process's arguments; none when it is gone.
pub fn arguments(process: i32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line).into_owned();
    text.trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect()
}

/// Sends a signal.
///
/// # Panics
/// When the process is gone.
pub fn kill(process: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), signal)
        .unwrap_or_else(|error| panic!("send {signal} to {process}: {error}"));
}

/// Whether it exists and is not a zombie.
pub fn is_alive(process: i32) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z')
}

fn all() -> Vec<(i32, Vec<String>)> {
    std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process: i32| {
            let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
            let arguments = line
                .split(|byte| *byte == 0)
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect();
            Some((process, arguments))
        })
        .collect()
}

fn parent(process: i32) -> Option<i32> {
    stat(process).map(|(_, parent)| parent)
}

fn stat(process: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}
