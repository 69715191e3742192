//! `examples/bring-your-own`, as its README says: PostgreSQL and a gRPC service in Python, and nothing of either changed.

use std::time::Duration;

use bartizan_tests::{Mesh, eventually, repository, run};

use crate::lab::with_modules;

#[test]
fn other_peoples_servers_run_and_only_who_may_reaches_them() {
    let Some((start, _folder)) = with_modules(&repository().join("examples/bring-your-own")) else {
        return;
    };
    let mesh = Mesh::up(&start);
    // The README's first command.
    let call = |item: &str, identity: &str| {
        mesh.bartizan(&[
            "call",
            "--as",
            identity,
            "-d",
            item,
            "grpc://stock.inventory:50051/inventory.v1.Stock/Count",
        ])
    };
    let counted = call("bolt", "inventory/clerk");
    assert_eq!(counted.code, 0, "{counted:?}\n{}", mesh.last_words());
    assert!(counted.stdout.contains("1200"), "{counted:?}");
    let missing = call("hammer", "inventory/clerk");
    assert!(missing.stdout.contains("no item hammer"), "{missing:?}");
    let denied = call("bolt", "inventory/database");
    assert_eq!(denied.code, 4, "{denied:?}");

    // The second: only `stock` may speak with the database.
    let psql = |identity: &str, arguments: &[&str]| {
        let base = [
            "run",
            "--as",
            identity,
            "--env",
            "PGPASSWORD=only-for-this-example",
            "--env",
            "PGCONNECT_TIMEOUT=10",
            "--",
            "psql",
            "-h",
            "database.inventory",
            "-U",
            "postgres",
            "-At",
        ];
        mesh.bartizan(&[&base, arguments].concat())
    };
    let refused = psql("inventory/clerk", &["-c", "select 1"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(!refused.stdout.contains('1'), "{refused:?}");
    // The third.
    let explained = mesh.bartizan(&["explain", "--last-denied"]);
    assert_eq!(explained.code, 0, "{explained:?}");
    assert!(explained.stdout.contains("database"), "{explained:?}");

    // With the right identity everything of PostgreSQL's protocol: a preface that asks for TLS and is refused, passwords,
    // pipelines, much data both ways, notifications, a cancelled statement on a connection of its own.
    let stock = "inventory/stock";
    let one = psql(stock, &["-c", "select count from stock where item = 'nut'"]);
    assert_eq!(one.stdout, "800\n", "{one:?}\n{}", mesh.last_words());
    let wrong = mesh.run_as(
        stock,
        &[
            "psql",
            "postgres://postgres:wrong@database.inventory/postgres",
            "-c",
            "select 1",
        ],
    );
    assert!(
        wrong.stderr.contains("password authentication failed"),
        "{wrong:?}"
    );
    let much = psql(
        stock,
        &[
            "-c",
            "select md5(string_agg(n::text, ',')), sum(length(repeat('x', 100))) from generate_series(1, 200000) n",
        ],
    );
    assert!(much.stdout.ends_with("|20000000\n"), "{much:?}");
    let rows = psql(
        stock,
        &["-c", "select repeat('y', 1000) from generate_series(1, 10000)"],
    );
    assert_eq!(rows.stdout.len(), 10_010_000, "{}", rows.stderr);
    let copied = mesh.bartizan(&[
        "run", "--as", stock, "--env", "PGPASSWORD=only-for-this-example", "--", "/bin/sh", "-c",
        "seq 1 300000 | psql -h database.inventory -U postgres -At -c 'create table numbers (n int)' -c 'copy numbers from stdin' -c 'select sum(n) from numbers'",
    ]);
    assert!(copied.stdout.contains("45000150000"), "{copied:?}");
    let cancelled = psql(
        stock,
        &["-c", "set statement_timeout = 500", "-c", "select pg_sleep(20)"],
    );
    assert!(
        cancelled
            .stderr
            .contains("canceling statement due to statement timeout"),
        "{cancelled:?}"
    );
    let mut command = mesh.command(&[
        "run",
        "--as",
        stock,
        "--env",
        "PGPASSWORD=only-for-this-example",
        "--",
        "/bin/sh",
        "-c",
        // SIGINT makes psql ask for a cancel over a second connection.
        "timeout -s INT 1 psql -h database.inventory -U postgres -c 'select pg_sleep(30)'; true",
    ]);
    command.env_remove("PGPASSWORD");
    let cancelled = run(command, Duration::from_secs(20));
    assert!(
        cancelled
            .stderr
            .contains("canceling statement due to user request"),
        "{cancelled:?}"
    );

    // It is bytes that pass: the log says who and how many.
    eventually("the connection is in the log", Duration::from_secs(10), || {
        mesh.access_log().iter().any(|entry| {
            entry["reporter"] == "destination"
                && entry["source_principal"]
                    .as_str()
                    .is_some_and(|principal| principal.ends_with("/ns/inventory/sa/stock"))
                && entry["downstream_local_address"]
                    .as_str()
                    .is_some_and(|address| address.ends_with(":5432"))
                && entry["bytes_sent"]
                    .as_u64()
                    .is_some_and(|bytes| bytes > 10_000_000)
        })
    });
    // Another database would start empty; this one keeps what it has while other documents change.
    mesh.edit_document(
        "documents.yaml",
        "paths: [\"/inventory.v1.Stock/Count\"]",
        "paths: [\"/inventory.v1.Stock/*\"]",
    );
    mesh.settle();
    let kept = psql(stock, &["-c", "select count(*) from numbers"]);
    assert_eq!(kept.stdout, "300000\n", "{kept:?}");
}
