//! Scenes: volumes and declared paths.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use bartizan_sandbox::{Sandbox, Volume, VolumeContent, VolumeFile, VolumeMount};

use crate::world::{World, container, options, output, pod};

#[expect(clippy::too_many_lines, reason = "one scene, top to bottom")]
pub(crate) async fn files() {
    let state = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(outside.path()).unwrap();
    fs::create_dir(real.join("code")).unwrap();
    fs::write(real.join("code/program"), "text").unwrap();
    fs::create_dir(real.join("data")).unwrap();
    // Where containers are real users, a declared path is written with their own rights.
    fs::set_permissions(
        real.join("data"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    // A state directory below a declared path is masked.
    let inner_state = real.join("code/.bartizan");
    fs::create_dir(&inner_state).unwrap();
    fs::write(inner_state.join("key"), "secret").unwrap();
    let mut start = options(state.path());
    start.masked.push(inner_state.clone());
    let (sandbox, events) = Sandbox::start(start).await.unwrap();
    let mut world = World {
        sandbox,
        events,
        ended: HashMap::new(),
        state,
        sockets: HashMap::new(),
    };
    let file = |path: &str, content: &str| VolumeFile {
        path: path.into(),
        mode: 0o644,
        content: content.into(),
    };
    let volumes = vec![
        Volume {
            name: "shared".into(),
            content: VolumeContent::Empty {
                size_bytes: Some(1 << 20),
            },
        },
        Volume {
            name: "config".into(),
            content: VolumeContent::Files(vec![file("a.yaml", "one"), file("d/b", "two")]),
        },
    ];
    world.sandbox.create_pod(pod("a", 5, volumes)).await.unwrap();
    let volume = |volume: &str, path: &str, sub_path: Option<&str>| VolumeMount {
        volume: volume.into(),
        path: path.into(),
        sub_path: sub_path.map(Into::into),
        read_only: false,
    };
    let look = async |world: &mut World, arguments: &[&str]| {
        let (reader, writer) = output();
        let mut spec = container("a", "looker", arguments, writer);
        spec.read = vec![real.join("code")];
        spec.write = vec![real.join("data")];
        spec.volumes = vec![
            volume("shared", "/data", None),
            volume("config", "/etc/app/config", None),
            volume("config", "/usr/share/one.yaml", Some("a.yaml")),
            volume("shared", "/srv/part", Some("part/of")),
            volume("config", "/data/nested", Some("d")),
        ];
        world.run(spec, reader).await
    };
    let code = real.join("code/program").display().to_string();
    let data = real.join("data/new").display().to_string();
    let key = inner_state.join("key").display().to_string();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["read", &code], "text"),
        (vec!["write", &code], "refused EROFS|refused EACCES"),
        (vec!["read", &key], "refused ENOENT"),
        (vec!["write", &data], "written"),
        (vec!["write", "/data/x"], "written"),
        (vec!["read", "/data/x"], "x"),
        (vec!["read", "/etc/app/config/a.yaml"], "one"),
        (
            vec!["write", "/etc/app/config/a.yaml"],
            "refused EROFS|refused EACCES",
        ),
        (vec!["read", "/usr/share/one.yaml"], "one"),
        (vec!["read", "/data/nested/b"], "two"),
        (vec!["write", "/srv/part/y"], "written"),
        (vec!["read", "/data/part/of/y"], "x"),
    ];
    for (arguments, expected) in cases {
        let outcome = look(&mut world, &arguments).await;
        let met = expected.split('|').any(|expected| outcome == expected);
        assert!(met, "{arguments:?}: {outcome}, expected {expected}");
    }
    assert_eq!(fs::read_to_string(real.join("data/new")).unwrap(), "x");
    // An explosion of /usr/share must not lose its entries.
    assert!(look(&mut world, &["list", "/usr/share"]).await.split(' ').count() > 5);
    world
        .sandbox
        .write_volume("a", "config", vec![file("a.yaml", "changed")])
        .await
        .unwrap();
    assert_eq!(
        look(&mut world, &["read", "/etc/app/config/a.yaml"]).await,
        "changed"
    );

    // A symbolic link that an application puts into a volume leads nowhere.
    let (reader, writer) = output();
    let mut planter = container("a", "planter", &[], writer);
    planter.argv = [
        "sh",
        "-c",
        "ln -s / /data/evil && ln -s / /data/part/up && echo planted",
    ]
    .map(String::from)
    .into();
    planter.volumes = vec![volume("shared", "/data", None)];
    assert_eq!(world.run(planter, reader).await, "planted");
    for sub_path in ["evil", "evil/etc", "part/up/etc", "../x", "/etc"] {
        let (_, writer) = output();
        let mut spec = container("a", "follower", &["list", "/follow"], writer);
        spec.volumes = vec![volume("shared", "/follow", Some(sub_path))];
        assert!(world.sandbox.spawn_container(spec).await.is_err(), "{sub_path}");
    }
    for path in ["/proc", "/", "/nonexistent/x", "relative"] {
        let (_, writer) = output();
        let mut spec = container("a", "reader", &["list", "/"], writer);
        spec.read = vec![PathBuf::from(path)];
        let error = world.sandbox.spawn_container(spec).await.unwrap_err().to_string();
        assert!(error.contains("declared path"), "{error}");
    }
}
