//! Generates the messages into `crates/proto`, and each side's gRPC stubs into the room that speaks them.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = protox::compile(["bartizan/v1alpha1/mesh.proto"], [root.join("proto")])?;
    let write = |room: &str, client: bool, server: bool, messages: bool| -> Result<(), Box<dyn std::error::Error>> {
        let out = root.join("crates").join(room).join("src/gen");
        std::fs::create_dir_all(&out)?;
        if messages {
            prost_build::Config::new().bytes(["."]).out_dir(&out).compile_fds(files.clone())?;
        } else {
            tonic_prost_build::configure()
                .build_client(client)
                .build_server(server)
                .build_transport(false)
                .extern_path(".bartizan.v1alpha1", "::bartizan_proto::v1alpha1")
                .out_dir(&out)
                .compile_fds(files.clone())?;
        }
        Ok(())
    };
    write("proto", false, false, true)?;
    // Messages alone: the data plane's workers speak gRPC to authorizers over their own upstream connections.
    let authorizers = protox::compile(["envoy/service/auth/v3/external_auth.proto"], [root.join("proto")])?;
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .out_dir(root.join("crates/proto/src/gen"))
        .compile_fds(authorizers)?;
    write("control", false, true, false)?;
    write("proxy", true, false, false)?;
    write("bartizan", true, false, false)?;
    Ok(())
}
