//! The relay's program. Everything is in the library.

use std::process::ExitCode;

use clap::Parser;

/// Connections come and go with pieces of all sizes, of which the system's own allocator gives little back:
/// proto-docs/decisions/0017-an-allocator-of-its-own.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    restante::cli::Arguments::parse().run().await
}
