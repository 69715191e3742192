//! What the pages show is what the program says: the commands of every `console` block are run, one page after another in
//! a folder of its own, and their output is compared.
//!
//! A page's commands run in order, in a folder that has `examples` in it and every YAML block of the page that begins with
//! `# FILE.yaml`. Standard output counts, and where a block shows `echo $?`, the exit code. A line `…` stands for any lines.
//! With `BARTIZAN_WRITE_PAGES=1` blocks that differ are written anew, to be read before they are committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Any lines.
const LEFT_OUT: &str = "…";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A fenced block: its language, its lines, and the index of the first of them in the page.
struct Block {
    language: String,
    lines: Vec<String>,
    from: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            continue;
        };
        let inner = lines
            .by_ref()
            .map(|(_, line)| line.to_owned())
            .take_while(|line| line != "```")
            .collect();
        found.push(Block {
            language: language.trim().to_owned(),
            lines: inner,
            from: at + 1,
        });
    }
    found
}

/// One command of a block as it is written, and what is shown below it.
struct Shown {
    written: Vec<String>,
    output: Vec<String>,
}

impl Shown {
    fn command(&self) -> String {
        let text = self.written.join("\n");
        text.strip_prefix("$ ").unwrap_or(&text).to_owned()
    }
}

fn commands(block: &Block) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    let mut goes_on = false;
    for line in &block.lines {
        if line.starts_with("$ ") {
            found.push(Shown {
                written: vec![line.clone()],
                output: Vec::new(),
            });
        } else {
            let last = found.last_mut().expect("a console block begins with a command");
            let part = if goes_on {
                &mut last.written
            } else {
                &mut last.output
            };
            part.push(line.clone());
        }
        goes_on = line.ends_with('\\') && (goes_on || line.starts_with("$ "));
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// A shell that has the program in its path, in the page's folder. The exit code of the command before is `$?`.
fn run(folder: &Path, command: &str, before: i32) -> (Vec<String>, i32) {
    let program = Path::new(env!("CARGO_BIN_EXE_bartizan")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", &format!("(exit {before})\n{command}")])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", program.display()))
        .env("BARTIZAN_STATE", folder.join("state"))
        .env_remove("BARTIZAN_MESH")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line.trim_end().to_owned()).collect();
    (lines, output.status.code().unwrap_or(-1))
}

/// Whether `shown` is `said`, where a line `…` is any lines.
fn is_same(shown: &[String], said: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((first, rest)) if first == LEFT_OUT => {
            (0..=said.len()).any(|left_out| said.get(left_out..).is_some_and(|said| is_same(rest, said)))
        }
        Some((first, rest)) => said
            .split_first()
            .is_some_and(|(said, others)| said == first && is_same(rest, others)),
    }
}

fn without_blank_ends(lines: &[String]) -> &[String] {
    let end = lines
        .iter()
        .rposition(|line| !line.is_empty())
        .map_or(0, |last| last + 1);
    lines.get(..end).unwrap_or_default()
}

#[test]
fn the_pages_show_what_the_program_says() {
    let is_writing = std::env::var_os("BARTIZAN_WRITE_PAGES").is_some();
    let mut compared = 0;
    let mut differing = Vec::new();
    let mut pages: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    for path in pages {
        let text = fs::read_to_string(&path).unwrap();
        let blocks = blocks(&text);
        if !blocks.iter().any(|block| block.language == "console") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        copy(
            &root().join("examples/telemetry"),
            &folder.path().join("examples/telemetry"),
        );
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for block in blocks.iter().rev().filter(|block| block.language == "yaml") {
            let name = block.lines.first().and_then(|line| line.strip_prefix("# "));
            if let Some(name) = name.filter(|name| {
                Path::new(name)
                    .extension()
                    .is_some_and(|extension| extension == "yaml")
                    && !name.contains([' ', '/'])
            }) {
                fs::write(folder.path().join(name), block.lines.join("\n")).unwrap();
            }
        }
        let mut code = 0;
        let mut written = Vec::new();
        for block in blocks.iter().filter(|block| block.language == "console") {
            let mut anew = Vec::new();
            let mut is_another = false;
            for shown in commands(block) {
                let (said, ended) = run(folder.path(), &shown.command(), code);
                code = ended;
                compared += 1;
                anew.extend(shown.written.iter().cloned());
                if is_same(without_blank_ends(&shown.output), without_blank_ends(&said)) {
                    anew.extend(shown.output);
                } else {
                    is_another = true;
                    differing.push(format!(
                        "{}: {}\nshows\n{}\nand the program says\n{}\n",
                        path.display(),
                        shown.command(),
                        shown.output.join("\n"),
                        said.join("\n")
                    ));
                    anew.extend(said);
                }
            }
            if is_another {
                written.push((block.from, block.lines.len(), anew));
            }
        }
        if is_writing {
            for (from, length, anew) in written.into_iter().rev() {
                lines.splice(from..from + length, anew);
            }
            fs::write(&path, lines.join("\n") + "\n").unwrap();
        }
    }
    assert!(is_writing || differing.is_empty(), "{}", differing.join("\n"));
    assert!(compared >= 8, "{compared} commands");
}

#[test]
fn a_page_that_shows_something_else_is_seen() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (shown, same) in [
        ("a\nb\nc", true),
        ("a\n…\nc", true),
        ("…", true),
        ("a\n…", true),
        ("a\nb", false),
        ("a\n…\nb", false),
        ("", false),
        ("a\nb\nd", false),
    ] {
        assert_eq!(is_same(&lines(shown), &lines("a\nb\nc")), same, "{shown}");
    }
    let block = &blocks("x\n```console\n$ a \\\n  b\nc\n$ d\n```\n")[0];
    let found: Vec<_> = commands(block)
        .iter()
        .map(|shown| (shown.command(), shown.output.len()))
        .collect();
    assert_eq!(found, [("a \\\n  b".to_owned(), 1), ("d".to_owned(), 0)]);
}
