//! The scripts, run as an operator runs them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::relay::{Backend, Settings};

/// What a script did.
pub struct Ran {
    succeeded: bool,
    /// Everything it wrote.
    pub text: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.succeeded, "{}", self.text);
        self.text
    }

    #[track_caller]
    pub fn refused(self, why: &str) {
        assert!(!self.succeeded && self.text.contains(why), "not refused because {why}:\n{}", self.text);
    }
}

/// Runs `scripts/backup` or `scripts/restore` with these settings alone.
pub async fn run(script: &str, file: &Path, settings: BTreeMap<String, String>) -> Ran {
    let cwd = tempfile::tempdir().unwrap();
    run_in(cwd.path(), script, &[file], settings).await
}

/// [`run`], in a folder that may have settings too.
pub async fn run_in(
    cwd: &Path,
    script: &str,
    arguments: &[&Path],
    settings: BTreeMap<String, String>,
) -> Ran {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let (cwd, arguments) = (cwd.to_owned(), arguments.iter().map(PathBuf::from).collect::<Vec<_>>());
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("bash");
        command.arg(path).args(arguments).current_dir(cwd).stdin(Stdio::null());
        command.env_clear().envs(settings).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("RESTANTE", env!("CARGO_BIN_EXE_restante")).output().unwrap()
    });
    let output = output.await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    Ran { succeeded: output.status.success(), text: String::from_utf8(text).unwrap() }
}

/// A place for backups.
pub struct Shelf(tempfile::TempDir);

impl Shelf {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// An empty backend of the same engines, and the settings that a restored relay has there: those that must be kept.
pub async fn elsewhere(backend: &Backend) -> (Backend, Vec<(&'static str, String)>) {
    if !backend.is_production() {
        return (Backend::embedded(), Vec::new());
    }
    let settings = backend.settings(&[]);
    let kept = ["MASTER_SECRET", "REDIS_PREFIX"].map(|name| (name, settings[name].clone()));
    (Backend::production().await.unwrap(), kept.into())
}

pub fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

pub async fn backup(backend: &Backend, file: &Path) -> Ran {
    run("backup", file, backend.settings(&[])).await
}

pub async fn restore(backend: &Backend, settings: Settings<'_>, file: &Path) -> Ran {
    run("restore", file, backend.settings(settings)).await
}
