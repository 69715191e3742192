//! What the pages show must work: documents are read, commands parse, and the reference pages are what the code says.

use std::path::{Path, PathBuf};

use clap::Parser as _;

use crate::args::Arguments;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every page for people: the path as shown, and its text.
fn pages() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    for folder in [
        "docs",
        "docs/decisions",
        "examples/bring-your-own",
        "examples/telemetry",
    ] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let pages: Vec<_> = paths
        .iter()
        .filter(|path| path.exists())
        .map(|path| {
            (
                path.strip_prefix(root()).unwrap().display().to_string(),
                std::fs::read_to_string(path).unwrap(),
            )
        })
        .collect();
    assert!(pages.len() > 8);
    pages
}

/// The fenced blocks in one of these languages: the line where each begins, and its text without the indentation of a list.
fn blocks(page: &str, languages: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let mut text = String::new();
        for (_, line) in lines.by_ref() {
            if line.trim() == "```" {
                break;
            }
            text.push_str(line.get(indent..).unwrap_or_default());
            text.push('\n');
        }
        if languages.contains(&language.trim()) {
            found.push((at + 2, text));
        }
    }
    found
}

#[test]
fn documents_in_the_pages_are_read_as_they_say() {
    let mut read = 0;
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        read += documents(&page, &text, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(read >= 3, "{read} blocks with documents");
}

#[test]
fn a_wrong_document_in_a_page_is_seen_unless_it_is_meant() {
    let page = |mark: &str| {
        format!(
            "Text.\n\n```yaml\n{mark}\napiVersion: v1\nkind: Service\nmetadata: {{ name: a }}\nspec: {{ ports: [{{ port: 80 }}], selecter: {{}} }}\n```\n"
        )
    };
    for (mark, seen) in [
        ("# as it should be", true),
        ("# findings: BZ0110", false),
        ("# findings: BZ0102", true),
    ] {
        let mut wrong = Vec::new();
        assert_eq!(documents("page", &page(mark), &mut wrong), 1);
        assert_eq!(!wrong.is_empty(), seen, "{mark}: {wrong:?}");
    }
}

/// Reads the documents of a page, and says where they are not as `# findings: CODE` in them says; without that, right.
fn documents(page: &str, text: &str, wrong: &mut Vec<String>) -> usize {
    let mut read = 0;
    for (line, block) in blocks(text, &["yaml"]) {
        if !(block.contains("apiVersion:") && block.contains("kind:")) {
            continue;
        }
        read += 1;
        let expected: Vec<&str> = block
            .lines()
            .filter_map(|line| line.split_once("# findings:"))
            .flat_map(|(_, codes)| codes.split([' ', ',']))
            .filter(|code| !code.is_empty())
            .collect();
        let reading = bartizan_config::read(&bartizan_config::SourceFile::new(page, &*block));
        let mut found: Vec<&str> = reading
            .findings
            .iter()
            .filter(|finding| finding.is_error() || expected.contains(&finding.code.id))
            .map(|finding| finding.code.id)
            .collect();
        found.dedup();
        if found != expected {
            let drawn = bartizan_config::finding::render_all(
                &reading.findings,
                bartizan_config::finding::Paint::Plain,
            );
            wrong.push(format!(
                "{page}:{line} has {found:?} and not {expected:?}\n{block}\n{drawn}"
            ));
        }
    }
    read
}

#[test]
fn commands_in_the_pages_parse() {
    let (mut own, mut xtasks) = (0, 0);
    let tasks = std::fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    for (page, text) in pages() {
        for (line, block) in blocks(&text, &["sh", "console", "bash"]) {
            for words in commands(&block) {
                match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                    [program, arguments @ ..] if *program == "bartizan" || program.ends_with("/bartizan") => {
                        own += 1;
                        let all = std::iter::once("bartizan").chain(arguments.iter().copied());
                        if let Err(error) = Arguments::try_parse_from(all)
                            && error.use_stderr()
                        {
                            panic!("{page}:{line}: `{}`: {error}", words.join(" "));
                        }
                    }
                    ["cargo", "xtask", verb, ..] => {
                        xtasks += 1;
                        assert!(
                            tasks.contains(&format!("\n        \"{verb}\" => ")),
                            "{page}:{line}: xtask has no verb `{verb}`"
                        );
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(
        own >= 10 && xtasks >= 1,
        "{own} commands and {xtasks} tasks in the pages"
    );
}

#[test]
fn the_agents_policy_in_the_pages_is_that_of_the_tests() {
    let policy = std::fs::read_to_string(root().join("tests/peers/opa/policy.rego")).unwrap();
    let mut shown = 0;
    for (page, text) in pages() {
        for (line, block) in blocks(&text, &["rego"]) {
            for part in block.split("\n\n") {
                shown += 1;
                assert!(
                    policy.contains(part.trim_end()),
                    "{page}:{line}: not in policy.rego:\n{part}"
                );
            }
        }
    }
    assert!(shown > 3, "{shown} parts of policies");
}

#[test]
fn links_in_the_pages_lead_somewhere() {
    let mut links = 0;
    for (page, text) in pages() {
        let folder = root().join(&page).parent().unwrap().to_owned();
        let prose: String = text.split("```").step_by(2).collect::<Vec<_>>().join("\n");
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let (file, anchor) = link.0.split_once('#').unwrap_or((link.0, ""));
            if file.contains("://") {
                continue;
            }
            links += 1;
            let path = if file.is_empty() {
                root().join(&page)
            } else {
                folder.join(file)
            };
            assert!(path.exists(), "{page} links to {file}, which is not there");
            if !anchor.is_empty() {
                let target = std::fs::read_to_string(&path).unwrap();
                assert!(
                    target
                        .lines()
                        .filter(|line| line.starts_with('#'))
                        .any(|line| slug(line) == anchor),
                    "{page} links to {file}#{anchor}, which is not there"
                );
            }
        }
    }
    assert!(links >= 30, "{links} links");
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            letter => letter.is_alphanumeric().then_some(letter),
        })
        .collect()
}

#[test]
fn reference_pages_name_everything() {
    let commands = super::commands::page();
    for name in ["up", "explain", "proxy"] {
        assert!(
            commands.contains(&format!("## bartizan {name}\n")),
            "{name} is missing"
        );
    }
    assert!(!commands.contains("detached"), "hidden options stay hidden");
    let metrics = super::metrics::page();
    for name in [
        "istio_requests_total",
        "istio_tcp_sent_bytes_total",
        "`source_principal`",
        "bartizan_policy_denied_total",
        "| `bartizan_svids_refused_total` | counter | `reason` |",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
    for name in ["\n### BZ0101: ", "\n| BZ0301 | "] {
        assert!(super::findings().contains(name), "{name} is missing");
    }
}

/// The simple commands of a shell text: lines joined at `\`, cut at operators, without prompts, variables and redirections.
fn commands(block: &str) -> Vec<Vec<String>> {
    let text = block.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches("$ ");
        if line.starts_with('#') {
            continue;
        }
        let mut words: Vec<String> = Vec::new();
        for word in split(line) {
            match word.as_str() {
                "|" | "&&" | "||" | ";" | "&" => found.push(std::mem::take(&mut words)),
                "sudo" if words.is_empty() => {}
                // `NAME=$(command …)`
                word if words.is_empty() && word.contains("=$(") => {
                    words.extend(word.split_once("$(").map(|(_, first)| first.to_owned()));
                    line.ends_with(')')
                        .then_some(())
                        .expect("one command, to the line's end");
                }
                word if words.is_empty() && word.contains('=') && !word.starts_with('-') => {}
                _ => words.push(word),
            }
        }
        if line.contains("=$(") {
            words
                .last_mut()
                .into_iter()
                .for_each(|last| *last = last.trim_end_matches(')').to_owned());
        }
        found.push(words);
    }
    found
        .into_iter()
        .map(without_redirections)
        .filter(|words| !words.is_empty())
        .collect()
}

#[test]
fn a_command_in_an_assignment_is_one() {
    let found = commands("TOKEN=$(bartizan token sign key.jwk \\\n  --subject ana)\n");
    assert_eq!(
        found,
        [["bartizan", "token", "sign", "key.jwk", "--subject", "ana"]]
    );
}

fn without_redirections(words: Vec<String>) -> Vec<String> {
    words
        .into_iter()
        .take_while(|word| !word.starts_with(['>', '<']) && !word.starts_with("2>"))
        .collect()
}

/// Words of a line with quotes taken off; a comment ends it.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut is_open = false;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(end), letter) if letter == end => quote = None,
            (Some(_), letter) => word.push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                is_open = true;
            }
            (None, '#') if !is_open => break,
            (None, ' ' | '\t') => {
                if is_open {
                    words.push(std::mem::take(&mut word));
                }
                is_open = false;
            }
            (None, letter) => {
                word.push(letter);
                is_open = true;
            }
        }
    }
    if is_open {
        words.push(word);
    }
    words
}
