//! What the program says: its answers on standard output, what went wrong on standard error.

use std::{
    fmt,
    io::{self, Write},
};

/// Prints a text, which ends its own lines. Whoever has read enough has closed the other end, and misses nothing.
///
/// # Errors
/// When what should be kept could not be written, in words for the operator.
pub(super) fn say(text: impl fmt::Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}

/// Prints a line.
///
/// # Errors
/// As [`say`].
pub(super) fn say_line(line: impl fmt::Display) -> Result<(), String> {
    say(format_args!("{line}\n"))
}

/// Tells a line on standard error. If nobody can hear that either, there is nobody to be told.
pub(super) fn complain(line: impl fmt::Display) {
    drop(writeln!(io::stderr(), "{line}"));
}
