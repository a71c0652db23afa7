//! A copy of the database while a relay serves it.

use std::{fs::File, io, path::Path};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::{
    folder::{self, DATABASE},
    unavailable,
};
use crate::store::StoreError;

/// Copies through a connection of its own that cannot write, and so without the folder's lock.
pub(super) async fn copy(folder: &Path, file: &Path) -> Result<i64, StoreError> {
    let Some(name) = file.to_str() else {
        return Err(unavailable("the name of the copy is not UTF-8"));
    };
    let mut source = folder::reading(&folder.join(DATABASE)).connect().await.map_err(unavailable)?;
    // SQLite writes into a file that is there if it is empty: it is made first, so that nobody else ever may read it.
    drop(folder::new_private_file(file).map_err(unavailable)?);
    sqlx::query("VACUUM INTO ?").bind(name).execute(&mut source).await.map_err(unavailable)?;
    source.close().await.map_err(unavailable)?;
    let mut copied = folder::reading(&file.to_path_buf()).connect().await.map_err(unavailable)?;
    let schema = schema(&mut copied).await.map_err(unavailable)?;
    copied.close().await.map_err(unavailable)?;
    // SQLite leaves it to the system when a copy reaches the disk.
    sync(file).map_err(unavailable)?;
    Ok(schema)
}

async fn schema(copied: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success").fetch_one(copied).await
}

fn sync(file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()
}
