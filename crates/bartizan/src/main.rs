//! The door: arguments, one file a command, and the wiring of roles. Everything that thinks lives in the rooms below.
#![expect(clippy::print_stdout, reason = "the one binary that talks to people")]

mod admin;
mod args;
mod cmd;
mod evaluate;
mod exit;
mod folder;
mod hops;
mod internal;
mod place;
mod reference;
mod signals;
mod supervisor_socket;
mod text;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else, and before any thread exists: the roles of this binary that join namespaces.
    if let Some(code) = internal::before_threads() {
        return code;
    }
    let arguments = Arguments::parse();
    if matches!(
        arguments.command,
        Command::Status(_)
            | Command::Logs(_)
            | Command::Check(_)
            | Command::Profile(_)
            | Command::Can(_)
            | Command::Explain(_)
            | Command::Prove(_)
            | Command::Diff(_)
            | Command::Test(_)
            | Command::Call(_)
    ) {
        signals::end_with_the_reader();
    }
    // Not every command needs a place, and so a home.
    let place = || {
        place::Place::of(&arguments.mesh)
            .map_err(|error| exit::Exit::error(exit::USAGE, format!("{error:#}")))
    };
    let result = match arguments.command {
        Command::Up(args) => place().and_then(|place| up::run(&place, args)),
        Command::Down(args) => place().and_then(|place| cmd::down::run(&place, &args)),
        Command::Status(args) => place().and_then(|place| cmd::status::run(&place, &args)),
        Command::Logs(args) => place().and_then(|place| cmd::logs::run(&place, &args)),
        Command::Run(args) => place().and_then(|place| cmd::run::run(&place, args)),
        Command::Exec(args) => place().and_then(|place| cmd::run::exec(&place, args)),
        Command::Call(args) => place().and_then(|place| cmd::call::run(&place, &args)),
        Command::Profile(args) => cmd::profile::run(&args),
        Command::Check(args) => cmd::check::run(&args),
        Command::Can(args) => cmd::can::run(place, &args),
        Command::Explain(args) => place().and_then(|place| cmd::explain::run(&place, &args)),
        Command::Token(args) => cmd::token::run(&args),
        Command::Prove(args) => cmd::prove::run(&args),
        Command::Diff(args) => cmd::diff::run(&args),
        Command::Test(args) => cmd::test::run(place, &args),
        Command::Echo(args) => with_runtime(cmd::echo::run(args)).map(|()| ExitCode::SUCCESS),
        Command::Proxy(args) => cmd::proxy::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => exit::failed(&error),
    }
}

/// Runs a future on a runtime of its own, on this thread.
pub(crate) fn with_runtime<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
