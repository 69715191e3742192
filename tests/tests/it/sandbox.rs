//! What a program finds inside: addresses, names, files, user, environment; what starts and ends it; `exec` and `run`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bartizan_tests::{Mesh, eventually};
use serde_json::{Value, json};

use crate::lab::{addresses, attempts, code, curl, documents};

fn inside(mesh: &Mesh, workload: &str, container: &str, script: &str) -> String {
    let ended = mesh.bartizan(&["exec", workload, "-c", container, "--", "/bin/sh", "-c", script]);
    assert_eq!(ended.code, 0, "{script}: {ended:?}");
    ended.stdout
}

fn workload(mesh: &Mesh, name: &str) -> Value {
    mesh.status()["workloads"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|pod| pod["name"]["name"] == name)
        .cloned()
        .unwrap_or_default()
}

fn ready(mesh: &Mesh, service: &str) -> u64 {
    mesh.status()["services"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["name"]["name"] == service && entry["name"]["namespace"] == "lab")
        .and_then(|entry| entry["ready"].as_u64())
        .unwrap_or_default()
}

#[test]
fn names_answer_in_every_form_and_for_every_program() {
    let mesh = Mesh::up(&documents("lab"));
    let web = mesh.status()["services"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|service| service["name"] == json!({"namespace": "lab", "name": "web"}))
        .and_then(|service| Some(service["address"].as_str()?.to_owned()))
        .unwrap_or_else(|| attempts(&mesh, "lab/client", &[json!(["resolve", "web"])]).remove(0));
    assert!(web.starts_with("10.67."), "{web}");
    let [store_0, store_1] = ["store-0", "store-1"].map(|name| addresses(&mesh, name).remove(0));
    let both = {
        let mut both = [store_0.clone(), store_1.clone()];
        both.sort();
        both.join(" ")
    };
    let full = "web.lab.svc.cluster.local";
    let table = [
        // The resolver of the C library, with its search list.
        (json!(["resolve", "web"]), web.clone()),
        (json!(["resolve", "web.lab"]), web.clone()),
        (json!(["resolve", "web.lab.svc"]), web.clone()),
        (json!(["resolve", full]), web.clone()),
        (json!(["resolve", format!("{full}.")]), web.clone()),
        (json!(["resolve", "WEB.Lab"]), web.clone()),
        (json!(["resolve", "alias"]), web.clone()),
        (json!(["resolve", "web.far"]), web.clone()),
        (json!(["resolve", "store"]), both.clone()),
        (json!(["resolve", "store-0.store"]), store_0.clone()),
        (json!(["resolve", "store-1.store.lab.svc.cluster.local"]), store_1),
        (
            json!(["resolve", "nothing"]),
            "refused Name or service not known".to_owned(),
        ),
        (
            json!(["resolve", "example.com"]),
            "refused Name or service not known".to_owned(),
        ),
        // Questions as they are on the wire.
        (json!(["dns", full, "A"]), format!("NOERROR {web}")),
        (json!(["dns", full, "A", {"tcp": true}]), format!("NOERROR {web}")),
        (json!(["dns", full, "AAAA"]), "NOERROR".to_owned()),
        (json!(["dns", full, "TXT"]), "NOERROR".to_owned()),
        (json!(["dns", "lab.svc.cluster.local", "A"]), "NOERROR".to_owned()),
        (
            json!(["dns", "nothing.lab.svc.cluster.local", "A"]),
            "NXDOMAIN".to_owned(),
        ),
        (
            json!(["dns", "nothing.lab.svc.cluster.local", "AAAA"]),
            "NXDOMAIN".to_owned(),
        ),
        (json!(["dns", "example.com", "A"]), "NXDOMAIN".to_owned()),
        (
            json!(["dns", "example.com", "A", {"tcp": true}]),
            "NXDOMAIN".to_owned(),
        ),
        (
            json!(["dns", "alias.lab.svc.cluster.local", "A"]),
            format!("NOERROR {web} type 5"),
        ),
        (
            json!(["dns", "web.far.svc.cluster.local", "AAAA"]),
            "NOERROR type 5".to_owned(),
        ),
        (
            json!(["dns", "store.lab.svc.cluster.local", "A"]),
            format!("NOERROR {both}"),
        ),
    ];
    let questions: Vec<Value> = table.iter().map(|(question, _)| question.clone()).collect();
    for ((question, expected), got) in table.iter().zip(attempts(&mesh, "lab/client", &questions)) {
        assert_eq!(&got, expected, "{question}");
    }
    // Other programs.
    let getent = mesh.run_as("lab/client", &["getent", "ahostsv4", "web"]);
    assert!(getent.stdout.starts_with(&web), "{getent:?}");
    assert_eq!(mesh.run_as("lab/client", &["getent", "hosts", "nothing"]).code, 2);
    for name in [
        "web",
        "web.lab:8080",
        "web.lab.svc.cluster.local",
        "alias",
        "store-1.store:7000",
        "loopback-only:8080",
        "address-only:8080",
    ] {
        let got = curl(&mesh, "lab/client", &[&format!("http://{name}/")]);
        assert_eq!(code(&got), "200", "{name}: {got:?}\n{}", mesh.last_words());
    }
    let far = curl(&mesh, "far/default", &["http://web/"]);
    assert_eq!(code(&far), "200", "{far:?}");
}

#[test]
fn a_pod_has_what_its_documents_say() {
    let mesh = Mesh::up(&documents("lab"));
    let address = addresses(&mesh, "many").remove(0);
    let environment = inside(&mesh, "lab/many", "one", "env");
    for line in [
        "PLAIN=plain",
        "JOINED=plain-$(GREETING)-$(PLAIN)",
        "GREETING=hello",
        "PASSWORD=s3cr3t!",
        "CRED_password=s3cr3t!",
        "CRED_token=token",
        "POD=many",
        "POD_NAMESPACE=lab",
        &format!("POD_ADDRESS={address}"),
        "ACCOUNT=web",
        "TIER=back",
        "NOTE=careful",
        "HOSTNAME=many",
    ] {
        assert!(
            environment.lines().any(|other| other == line),
            "{line}:\n{environment}"
        );
    }
    // Nothing of the host's or the mesh's environment.
    for name in ["CARGO", "BARTIZAN", "SSH_", "SUDO", "XDG_"] {
        assert!(
            !environment.lines().any(|line| line.starts_with(name)),
            "{environment}"
        );
    }
    let files =
        "cat /etc/settings/app.conf /etc/settings/greeting /etc/credentials/deep/token /etc/one-file.conf";
    assert_eq!(
        inside(&mesh, "lab/many", "one", files),
        "level = debug\nhellotokenlevel = debug\n"
    );
    assert_eq!(
        inside(
            &mesh,
            "lab/many",
            "one",
            "stat -c %a -L /etc/credentials/deep/token"
        ),
        "400\n"
    );
    assert_eq!(
        inside(&mesh, "lab/many", "two", "cat /seen/order"),
        "first\nsecond\none\n"
    );
    for (container, user) in [("one", "1234"), ("two", "4321")] {
        assert_eq!(inside(&mesh, "lab/many", container, "id -u").trim(), user);
    }
    // Only what is declared is writable.
    let writable = "for place in /own /seen /tmp /etc /usr /etc/settings; do touch $place/x 2>/dev/null && echo $place; done; true";
    assert_eq!(inside(&mesh, "lab/many", "two", writable), "/own\n/tmp\n");
    // Both containers are in one network; each has its own /tmp.
    assert_eq!(inside(&mesh, "lab/many", "one", "hostname -i").trim(), address);
    assert_eq!(inside(&mesh, "lab/many", "two", "hostname -i").trim(), address);
    assert_eq!(inside(&mesh, "lab/many", "one", "ls /tmp"), "");
    // Names that a StatefulSet gives.
    for replica in ["store-0", "store-1"] {
        let workload = format!("lab/{replica}");
        assert_eq!(
            inside(&mesh, &workload, "server", "hostname; cat /etc/hostname"),
            format!("{replica}\n{replica}\n")
        );
        assert_eq!(
            inside(&mesh, &workload, "server", "hostname -f"),
            format!("{replica}.store.lab.svc.cluster.local\n")
        );
    }
    let resolver = inside(&mesh, "lab/store-0", "server", "cat /etc/resolv.conf");
    assert!(
        resolver.contains("search lab.svc.cluster.local svc.cluster.local cluster.local\n"),
        "{resolver}"
    );
    assert!(resolver.contains("ndots:5"), "{resolver}");
    let hosts = inside(&mesh, "lab/store-0", "server", "cat /etc/hosts");
    assert!(hosts.contains("127.0.0.1\tlocalhost"), "{hosts}");
    // A ConfigMap's file changes while the program runs, and the program goes on.
    inside(&mesh, "lab/many", "one", "echo kept > /tmp/kept");
    mesh.edit_document("pods.yaml", "level = debug", "level = quiet");
    eventually("the file says so", Duration::from_secs(5), || {
        inside(&mesh, "lab/many", "one", "cat /etc/settings/app.conf") == "level = quiet\n"
    });
    assert_eq!(inside(&mesh, "lab/many", "one", "cat /tmp/kept"), "kept\n");
}

#[test]
fn two_replicas_bind_one_port_and_share_the_requests() {
    let mesh = Mesh::up(&documents("lab"));
    let mut hosts = std::collections::BTreeSet::new();
    let ended = mesh.run_as(
        "lab/client",
        &[
            "/bin/sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -sS -m 5 http://web/; echo; done",
        ],
    );
    for line in ended.stdout.lines() {
        let answer: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        hosts.insert(answer["host"].as_str().unwrap_or_default().to_owned());
        // The caller's address and identity arrive.
        assert!(
            answer["headers"]["x-forwarded-client-cert"]
                .as_str()
                .is_some_and(|text| text.contains("/sa/client")),
            "{line}"
        );
    }
    assert_eq!(
        hosts.into_iter().collect::<Vec<_>>(),
        ["web-0", "web-1"],
        "{ended:?}"
    );
}

#[test]
fn readiness_takes_an_endpoint_away_within_a_second_of_its_probe() {
    let mesh = Mesh::up(&documents("lab"));
    let address = addresses(&mesh, "web-0").remove(0);
    let unready = curl(
        &mesh,
        "lab/client",
        &[&format!("http://{address}:8080/be-ready/no")],
    );
    assert_eq!(code(&unready), "200", "{unready:?}");
    let started = Instant::now();
    eventually("one endpoint is left", Duration::from_secs(5), || {
        ready(&mesh, "web") == 1
    });
    // The probe's period is one second, too.
    assert!(
        started.elapsed() < Duration::from_millis(2500),
        "{:?}",
        started.elapsed()
    );
    let ended = mesh.run_as(
        "lab/client",
        &[
            "/bin/sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -m 5 http://web/; echo; done",
        ],
    );
    assert!(
        ended.stdout.lines().count() == 10 && ended.stdout.lines().all(|line| line.contains("\"web-1\"")),
        "{ended:?}"
    );
    let back = curl(
        &mesh,
        "lab/client",
        &[&format!("http://{address}:8080/be-ready/yes")],
    );
    assert_eq!(code(&back), "200", "{back:?}");
    eventually("both are back", Duration::from_secs(5), || {
        ready(&mesh, "web") == 2
    });
    // Nobody behind a service.
    let empty = curl(&mesh, "lab/client", &["http://empty:8080/"]);
    assert_eq!(code(&empty), "503", "{empty:?}");
}

#[test]
fn liveness_restarts_and_the_grace_period_ends() {
    let mesh = Mesh::up(&documents("lab"));
    let restarts = |mesh: &Mesh| {
        workload(mesh, "probed-0")["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|container| container["name"] == "alive")
            .and_then(|container| container["restarts"].as_u64())
            .unwrap_or_default()
    };
    assert_eq!(restarts(&mesh), 0);
    inside(&mesh, "lab/probed-0", "alive", "rm /tmp/alive");
    // It ignores SIGTERM: what ends it is the end of the grace period of one second.
    eventually("the container was restarted", Duration::from_secs(15), || {
        restarts(&mesh) == 1
    });
    eventually("it is ready again", Duration::from_secs(15), || {
        workload(&mesh, "probed-0")["ready"] == true
    });
    // An ended pod: one container says that it was told, before the grace period ends.
    let text = std::fs::read_to_string(mesh.documents.join("pods.yaml")).unwrap();
    let changed = text.replace("value: plain", "value: fancy");
    mesh.write_document("pods.yaml", &changed);
    eventually("the new pod runs", Duration::from_secs(20), || {
        workload(&mesh, "many")["ready"] == true
            && mesh
                .bartizan(&[
                    "exec",
                    "lab/many",
                    "-c",
                    "one",
                    "--",
                    "/bin/sh",
                    "-c",
                    "echo $PLAIN",
                ])
                .stdout
                == "fancy\n"
    });
    let log = mesh.bartizan(&["logs", "lab/many", "-c", "one"]);
    assert!(log.stdout.contains("told to end"), "{log:?}");
}

#[test]
fn exec_and_run_carry_input_output_codes_and_signals() {
    let mesh = Mesh::up(&documents("lab"));
    for before in [
        &["exec", "lab/many", "--"][..],
        &["run", "--as", "lab/client", "--"],
    ] {
        let shell = |script: &str| mesh.bartizan(&[before, &["/bin/sh", "-c", script]].concat());
        let ended = shell("echo out; echo err >&2; exit 7");
        assert_eq!((ended.code, ended.stdout.as_str()), (7, "out\n"), "{ended:?}");
        assert!(ended.stderr.contains("err\n"), "{ended:?}");
        assert_eq!(shell("kill -KILL $$").code, 137);
        let missing = mesh.bartizan(&[before, &["no-such-program"]].concat());
        assert_eq!(missing.code, 1, "{missing:?}");
        assert!(
            missing.stderr.contains("`no-such-program` is not in PATH"),
            "{missing:?}"
        );

        // Input, as much as one likes.
        let mut child = mesh
            .command(&[before, &["sha256sum"]].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&vec![0; 5_000_000]).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "b39781589c4403fb82174c9647a010464cff38bad976547d339899b00053a545  -\n"
        );

        // A signal to the command is a signal to what it started, and ends nothing else.
        for (signal, name, expected) in [
            (nix::sys::signal::Signal::SIGTERM, "TERM", 9),
            (nix::sys::signal::Signal::SIGINT, "INT", 9),
        ] {
            let script =
                format!("trap 'echo got; exit 9' {name}; echo started; while :; do sleep 0.05; done");
            let mut child = mesh
                .command(&[before, &["/bin/sh", "-c", &script]].concat())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "started");
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), "got");
            assert_eq!(child.wait().unwrap().code(), Some(expected));
        }

        // A client that is gone takes its command with it.
        let mut child = mesh
            .command(&[before, &["/bin/sh", "-c", "echo started; exec sleep 4242"]].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "started");
        eventually("its command runs", Duration::from_secs(5), || {
            !bartizan_tests::processes_of("4242").is_empty()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("its command is gone", Duration::from_secs(5), || {
            bartizan_tests::processes_of("4242").is_empty()
        });
    }
    // A workload of `run` is gone when its command is.
    eventually("no workload of `run` is left", Duration::from_secs(5), || {
        !mesh.status()["workloads"].to_string().contains("run-client")
    });
    let unknown = mesh.bartizan(&["exec", "lab/nobody", "--", "true"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(
        unknown.stderr.contains("no workload `lab/nobody` runs"),
        "{unknown:?}"
    );
    let container = mesh.bartizan(&["exec", "lab/many", "-c", "three", "--", "true"]);
    assert_eq!(container.code, 1, "{container:?}");
    // Several run at once.
    let children: Vec<_> = (0..6)
        .map(|number| {
            mesh.command(&[
                "run",
                "--as",
                "lab/client",
                "--",
                "/bin/sh",
                "-c",
                &format!("curl -sS -m 10 http://web/{number}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("\"/{number}\"")), "{text}");
    }
}

#[test]
fn what_does_not_become_ready_is_named_and_a_script_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("pod.yaml"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: lab}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: late, namespace: lab}\nspec:\n  \
         containers:\n    - {name: late, image: none, command: [/bin/sleep, \"1000\"], readinessProbe: {exec: {command: [/bin/false]}}}\n",
    )
    .unwrap();
    let mut start = documents("lab");
    start.documents = folder.path().to_owned();
    let started = Instant::now();
    let (mesh, ended) = Mesh::try_up(&start.with(&["--wait", "2s"]));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stderr.contains("lab/late") && ended.stderr.contains(" down` ends it"),
        "{ended:?}"
    );
    // It goes on, as it says.
    assert_eq!(workload(&mesh, "late")["ready"], false);
}
