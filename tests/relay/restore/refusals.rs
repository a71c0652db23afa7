//! What is not restored, and why.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use super::scripts::{Shelf, backup, borrowed, elsewhere, restore, run};
use crate::support::{
    process::RelayProcess,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    what_does_not_fit_is_refused_and_leaves_nothing,
    an_old_pg_dump_is_refused,
}

/// Takes a backup apart, changes it with a line of shell, and puts it together with sums that are right.
fn altered(shelf: &Shelf, backup: &Path, change: &str) -> std::path::PathBuf {
    let altered = shelf.file("altered.backup");
    let line = format!(
        "mkdir -p apart && cd apart && rm -f * && tar -xf \"$1\" && {change} && \
         rm SHA256SUMS && set -- \"$2\" * && out=$1 && shift && sha256sum \"$@\" > SHA256SUMS && tar -cf \"$out\" *"
    );
    let mut bash = Command::new("bash");
    bash.current_dir(shelf.file("")).args(["-c", &line, "bash"]).args([backup, &altered]);
    assert!(bash.status().unwrap().success());
    altered
}

async fn what_does_not_fit_is_refused_and_leaves_nothing(backend: &Backend) {
    let shelf = Shelf::new();
    let file = shelf.file("relay.backup");
    let mut process = RelayProcess::start(backend, &[]).await;
    backup(backend, &file).await.ok();
    assert!(process.stop().await.success());
    let (there, kept) = elsewhere(backend).await;
    let settings = borrowed(&kept);

    let other = if backend.is_production() { "sqlite" } else { "postgres" };
    for (change, why) in [
        ("sed -i s/^schema=.*/schema=9999/ manifest".to_owned(), "is newer than this relay knows"),
        (format!("sed -i s/^engine=.*/engine={other}/ manifest"), "of another engine"),
        ("sed -i s/^format=.*/format=2/ manifest".to_owned(), "format"),
        ("sed -i s/^schema=.*/schema=x/ manifest".to_owned(), "damaged"),
    ] {
        restore(&there, &settings, &altered(&shelf, &file, &change)).await.refused(why);
    }
    let whole = fs::read(&file).unwrap();
    let damaged = shelf.file("damaged.backup");
    for damage in [flipped(&whole), whole[..whole.len() / 2].to_vec(), b"no backup".to_vec(), Vec::new()] {
        fs::write(&damaged, damage).unwrap();
        restore(&there, &settings, &damaged).await.refused("damaged");
    }
    restore(&there, &settings, &shelf.file("absent")).await.refused("there is no file");
    assert!(fs::read_dir(there.folder()).unwrap().next().is_none(), "the folder is still empty");

    // After all of this the backup itself is still taken.
    restore(&there, &settings, &file).await.ok();
    there.finish().await;
}

/// A bit in the middle of the largest part.
fn flipped(whole: &[u8]) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    damaged
}

async fn an_old_pg_dump_is_refused(backend: &Backend) {
    if !backend.is_production() {
        return;
    }
    let shelf = Shelf::new();
    let mut process = RelayProcess::start(backend, &[]).await;
    let programs = "ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1";
    let found = Command::new("bash").args(["-c", programs]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let found = if found.trim().is_empty() { "$(dirname $(command -v psql))" } else { found.trim() };
    for (name, text) in [
        ("psql", format!("#!/bin/bash\nexec {found}/psql \"$@\"\n")),
        ("pg_restore", "#!/bin/bash\n".to_owned()),
        ("pg_dump", "#!/bin/bash\necho 'pg_dump (PostgreSQL) 9.6.24'\n".to_owned()),
    ] {
        fs::write(shelf.file(name), text).unwrap();
        fs::set_permissions(shelf.file(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let folder = shelf.file("").display().to_string();
    let settings = backend.settings(&[("PG_BIN", &folder)]);
    run("backup", &shelf.file("relay.backup"), settings).await.refused("is older than the server");
    assert!(!shelf.file("relay.backup").exists());
    assert!(process.stop().await.success());
}

/// A script that read another folder or database than the relay would restore beside it, or back up another one.
#[test]
fn scripts_read_a_file_of_settings_as_the_relay_does() {
    let folder = tempfile::tempdir().unwrap();
    let text = "A=./data\nB=./data # here\nC=\"./my data\" # quoted\nD='it # is'\n  export E = x  \nF=\nG= # none\n\
                H=postgres://u:p%40#w@h/d\n#I=no\nJ=first\n";
    fs::write(folder.path().join(".env"), text).unwrap();
    let known: BTreeMap<String, String> =
        dotenvy::from_path_iter(folder.path().join(".env")).unwrap().map(Result::unwrap).collect();
    assert_eq!(known.len(), 9, "{known:?}");
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/archive.sh");
    for name in known.keys().map(String::as_str).chain(["I"]) {
        let mut bash = Command::new("bash");
        bash.current_dir(folder.path()).env_remove(name);
        let read =
            bash.args(["-c", "source \"$0\" && setting \"$1\""]).arg(&library).arg(name).output().unwrap();
        let expected = known.get(name).map_or("", String::as_str);
        assert_eq!(String::from_utf8(read.stdout).unwrap(), expected, "{name}");
    }
}
