//! The relay's program. Everything is in the library.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    restante::cli::Arguments::parse().run().await
}
