//! What is not restored, and why.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

use sqlx::{Connection as _, PgConnection};

use super::scripts::{Shelf, backup, borrowed, elsewhere, restore, run, run_in};
use crate::support::{
    process::RelayProcess,
    relay::{Backend, on_both_backends},
};

/// A secret of 32 bytes in base64.
const SECRET: &str = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ=";

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

/// A script that read other settings than the relay would restore beside it, or back up another store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_backup_is_never_made_fit_in_a_database_that_other_settings_name() {
    let Some(production) = Backend::production().await else { return };
    let (embedded, shelf) = (Backend::embedded(), Shelf::new());
    let file = shelf.file("relay.backup");
    assert!(RelayProcess::start(&embedded, &[]).await.stop().await.success());
    backup(&embedded, &file).await.ok();
    fs::write(shelf.file("dsn"), &production.settings(&[])["DATABASE_URL"]).unwrap();
    fs::write(shelf.file(".env"), "DATABASE_URL_FILE=dsn\n").unwrap();
    let master = fs::read_to_string(embedded.folder().join("master.key")).unwrap();
    let there = Backend::embedded();
    let restore = async |own: &[(&str, &str)]| {
        let mut settings = there.settings(&[("MASTER_SECRET", master.trim()), ("TOKEN_SIGNING_KEY", SECRET)]);
        settings.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        run_in(&shelf.file(""), "restore", &[&file], settings).await
    };
    restore(&[]).await.refused("of another engine");
    restore(&[("DATABASE_URL", ""), ("DATABASE_URL_FILE", "dsn")]).await.refused("of another engine");
    restore(&[("DATABASE_URL_FILE", "away")]).await.refused("DATABASE_URL cannot be read");
    // An empty word takes back what .env says.
    restore(&[("DATABASE_URL", "")]).await.ok();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let mut database = PgConnection::connect(&production.database().unwrap().url()).await.unwrap();
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut database).await.unwrap();
    database.close().await.unwrap();
    assert_eq!(tables, 0, "the database was left alone");
    production.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_take_a_file_of_settings_as_the_relay_does() {
    let (backend, shelf) = (Backend::embedded(), Shelf::new());
    let [file, settings] = ["relay.backup", "restante.toml"].map(|name| shelf.file(name));
    assert!(RelayProcess::start(&backend, &[]).await.stop().await.success());
    let run = async |script, folder: &Path| {
        fs::write(&settings, format!("data_dir = {:?}\n", folder.display().to_string())).unwrap();
        let arguments = [Path::new("--config"), &settings, &file];
        run_in(&shelf.file(""), script, &arguments, BTreeMap::new()).await
    };
    run("backup", backend.folder()).await.ok();
    let there = shelf.file("there");
    run("restore", &there).await.ok();
    assert!(there.join("restante.db").is_file() && there.join("master.key").is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_root_restores_belongs_to_the_owner_of_the_folder() {
    const SOMEBODY: u32 = 65_534;
    let (backend, there, shelf) = (Backend::embedded(), Backend::embedded(), Shelf::new());
    if chown(there.folder(), Some(SOMEBODY), Some(SOMEBODY)).is_err() {
        eprintln!("SKIPPED: only root can give a folder away");
        return;
    }
    let file = shelf.file("relay.backup");
    assert!(RelayProcess::start(&backend, &[]).await.stop().await.success());
    backup(&backend, &file).await.ok();
    restore(&there, &[], &file).await.ok();
    let owners = fs::read_dir(there.folder()).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().uid())
    });
    let owners: BTreeMap<_, _> = owners.collect();
    assert!(owners.contains_key("restante.db") && owners.contains_key("master.key"), "{owners:?}");
    assert!(owners.values().all(|owner| *owner == SOMEBODY), "{owners:?}");
}
