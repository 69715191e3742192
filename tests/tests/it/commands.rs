//! Commands that need no mesh: `check` and `can` on the examples.

use std::time::Duration;

use bartizan_tests::{binary, repository, run};

fn bartizan(arguments: &[&str]) -> bartizan_tests::Ended {
    let mut command = std::process::Command::new(binary());
    command.args(arguments).current_dir(repository());
    run(command, Duration::from_secs(30))
}

#[test]
fn the_examples_have_no_findings_that_matter() {
    for example in ["examples/telemetry", "examples/bring-your-own"] {
        let ended = bartizan(&["check", example]);
        assert_eq!(ended.code, 0, "{example}:\n{}{}", ended.stdout, ended.stderr);
        assert!(!ended.stderr.contains("warning["), "{example}:\n{}", ended.stderr);
    }
}

#[test]
fn can_tells_from_a_folder_which_line_decides() {
    let ask = |from: &str, path: &str| {
        bartizan(&[
            "can",
            "--in",
            "examples/telemetry",
            from,
            "telemetry-ingest.mission-services",
            "POST",
            path,
        ])
    };
    let allowed = ask("mission-services/data-processor", "/v1/ingest/readings");
    assert_eq!(allowed.code, 0, "{}{}", allowed.stdout, allowed.stderr);
    assert!(allowed.stdout.contains("policies.yaml:"), "{}", allowed.stdout);
    for denied in [
        ask("mission-services/telemetry-query", "/v1/ingest/readings"),
        ask("mission-services/data-processor", "/v1/admin"),
        ask("outside", "/v1/ingest/readings"),
    ] {
        assert_eq!(denied.code, 4, "{}{}", denied.stdout, denied.stderr);
    }
}

#[test]
fn usage_errors_and_missing_meshes_have_their_own_exit_codes() {
    assert_eq!(bartizan(&["no-such-command"]).code, 2);
    assert_eq!(bartizan(&["--state", "/nonexistent/place", "status"]).code, 5);
    let missing = bartizan(&["check", "/nonexistent/folder"]);
    assert_eq!(missing.code, 3, "{}", missing.stderr);
}
