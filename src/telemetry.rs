//! Logs and traces: what an operator can act on, and nothing that names anybody.

mod traces;

use std::{io::IsTerminal, panic::PanicHookInfo};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    config::{LogFormat, TraceSettings},
    metrics,
};
use traces::Traces;

/// What was started, to be finished at the end.
pub struct Telemetry(Option<Traces>);

/// Whether traces can be sent where the settings say, as far as that is known without sending any.
///
/// # Errors
/// In words for the operator.
pub fn check(traces: &TraceSettings) -> Result<(), String> {
    traces.endpoint.as_ref().map_or(Ok(()), |to| traces::exporter(to).map(drop))
}

/// Starts logging to standard error, and tracing where the settings say so. From now on a panic is counted, and told by its
/// place alone.
///
/// # Errors
/// In words for the operator.
pub fn start(filter: &str, format: LogFormat, traces: &TraceSettings) -> Result<Telemetry, String> {
    let filter = EnvFilter::try_new(filter).map_err(|_| "RUST_LOG cannot be read".to_owned())?;
    let colours = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Pretty => lines.boxed(),
        LogFormat::Json => json(lines).boxed(),
    };
    let traces = traces.endpoint.as_ref().map(|to| Traces::to(to, &traces.service)).transpose()?;
    let layers = vec![lines.with_filter(filter).boxed()];
    let layers = layers.into_iter().chain(traces.as_ref().map(Traces::layer)).collect::<Vec<_>>();
    tracing_subscriber::registry().with(layers).try_init().map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(note_panic));
    Ok(Telemetry(traces))
}

impl Telemetry {
    /// Hands over what was traced and not yet sent, for some seconds at most. Blocks.
    pub fn finish(self) {
        if let Some(traces) = self.0 {
            traces.finish();
        }
    }
}

/// One object a line.
fn json<W>(
    lines: fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, W>,
) -> fmt::Layer<Registry, fmt::format::JsonFields, fmt::format::Format<fmt::format::Json>, W> {
    lines.json().flatten_event(true).with_current_span(false).with_span_list(false)
}

/// Only the place: a panic's words may hold what a client sent.
fn note_panic(panic: &PanicHookInfo<'_>) {
    metrics::panicked();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "a task panicked");
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_counted_and_told_by_its_place_without_its_words() {
        let written = Written::default();
        let to = written.clone();
        let lines = json(fmt::layer().with_ansi(false).with_writer(move || to.clone()));
        std::panic::set_hook(Box::new(note_panic));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            let panicked = std::panic::catch_unwind(|| panic!("alices-secret"));
            assert!(panicked.is_err());
        });
        drop(std::panic::take_hook());
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"a task panicked".into()));
        assert!(line["place"].as_str().unwrap().contains("telemetry.rs"), "{line}");
        assert!(!written.contains("alices-secret"), "{written}");
        let page = metrics::page(0, true);
        assert!(!page.contains("restante_panics_total 0"), "{page}");
    }
}
