//! The plans of the statements that run most, on filled tables.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::{
    accept, audit, bundles, expiry,
    fixtures::{Database, register, registration, send, stored, user},
    groups::statements,
    history, mailbox, notices, packages, revocations, sessions, write_batch,
};

/// Three thousand users with a device, ten messages and a group of ten for each.
const FILL: [&str; 13] = [
    "INSERT INTO users SELECT gen_random_uuid(), now() FROM generate_series(1, 3000)",
    "INSERT INTO devices (user_id, device_id, device_number, registration_id, created_at, last_seen, identity_key) \
        SELECT user_id, 'phone', 1, 1, now(), now(), '\\x00' FROM users",
    "INSERT INTO mailboxes (device_no, user_id, head) SELECT device_no, user_id, 10 FROM devices ON CONFLICT DO NOTHING",
    "INSERT INTO prekeys SELECT device_no, kind, id, '\\x00' FROM devices, generate_series(1, 2) kind, \
        generate_series(1, 5) id ON CONFLICT DO NOTHING",
    "INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, conversation_id, sequence, \
        message_type, accepted_at, expires_at, due_at, device_nos, positions) \
        SELECT gen_random_uuid(), 0, 1, user_id, user_id, user_id, position, 1, now(), now(), \
            now() + interval '1 day', ARRAY[device_no], ARRAY[position] \
        FROM mailboxes, generate_series(1, 10) position",
    "INSERT INTO mailbox_items SELECT device_nos[1], positions[1], message_id, sender_id, expires_at, 1, NULL, '\\x00' \
        FROM messages ON CONFLICT DO NOTHING",
    "INSERT INTO revocations (device_no, revoked_at) \
        SELECT device_no, now() - device_no * interval '20 seconds' FROM devices",
    "INSERT INTO groups (group_id, handshake, external_join, head) SELECT user_id, 2, 0, 10 FROM users",
    "INSERT INTO group_profiles (group_id, created_by, created_at, founder_no, founding) \
        SELECT group_id, group_id, now(), 1, '\\x00' FROM groups",
    "INSERT INTO group_members (group_id, user_id, role, joined_at) \
        SELECT d.user_id, o.user_id, CASE WHEN o.user_id = d.user_id THEN 2 ELSE 0 END, now() \
        FROM devices d JOIN devices o ON o.device_no BETWEEN d.device_no AND d.device_no + 9",
    "INSERT INTO group_windows (device_no, group_id, opened_after, closed_at, cursor, gate, joined_epoch) \
        SELECT o.device_no, d.user_id, 10 * e, CASE WHEN e = 0 THEN 5 END, 10 * e, 1, 0 \
        FROM devices d JOIN devices o ON o.device_no BETWEEN d.device_no AND d.device_no + 9, generate_series(0, 1) e",
    "INSERT INTO group_log (group_id, position, kind, message_id, digest, sender_no, sender_id, epoch, message_type, \
        accepted_at, expires_at, body) \
        SELECT group_id, position, 0, gen_random_uuid(), '\\x00', 1, group_id, 0, 1, now(), \
            now() + interval '1 day', '\\x00' FROM groups, generate_series(1, 10) position",
    "INSERT INTO key_packages (reference, device_no, user_id, cipher_suite, last_resort, signature_key, \
        init_key_digest, body_digest, not_after, body) \
        SELECT uuid_send(gen_random_uuid()), device_no, user_id, 1, false, '\\x00', uuid_send(gen_random_uuid()), \
            '\\x00', now() + interval '1 day', '\\x00' FROM devices, generate_series(1, 5)",
];

/// The statements that run for every message, bundle and reader.
const BUSY: [(&str, &str); 37] = [
    ("lock mailboxes", accept::LOCK_MAILBOXES),
    ("known", accept::KNOWN),
    ("participants", accept::PARTICIPANTS),
    ("sums of mailboxes", accept::SUMS),
    ("counts", accept::COUNTS),
    ("write", write_batch::WRITE),
    ("ack", ERASE_ITEM),
    ("heads", mailbox::HEADS),
    ("left", mailbox::LEFT),
    ("items", mailbox::ITEMS),
    ("take", bundles::TAKE),
    ("history", history::PAGE),
    ("has written", history::HAS_WRITTEN),
    ("due", expiry::DUE),
    ("refresh", sessions::LOCK),
    ("waiting lists", notices::WAITING_LISTS),
    ("trail", audit::PAGE),
    ("revocations", revocations::SINCE),
    ("lock free groups", statements::LOCK_FREE),
    ("lock groups", statements::LOCK),
    ("known to groups", statements::KNOWN),
    ("senders", statements::SENDERS),
    ("write to groups", statements::WRITE),
    ("heads of groups", statements::HEADS),
    ("log", statements::PAGE),
    ("standing", statements::STANDING),
    ("groups of a user", statements::GROUPS_OF),
    ("windows", statements::READABLE),
    ("windows of a group", statements::READABLE_IN),
    ("cursors", statements::ACK),
    ("items of groups", statements::POST),
    ("old entries", statements::OLD_ENTRIES),
    ("ended bodies of groups", statements::ENDED_BODIES),
    ("use packages", statements::USE_PACKAGES),
    ("groups of those who join", statements::CROWDED),
    ("take a package", packages::TAKE),
    ("issued packages", packages::ISSUED),
];

/// What the function `erase_item` of the migrations does.
const ERASE_ITEM: &str = "DELETE FROM mailbox_items WHERE device_no = $1 AND position = $2";

/// What the end of a group runs for its windows, those that have not ended too.
const DROP_WINDOWS: &str = "DELETE FROM group_windows WHERE group_id = $1";

#[tokio::test(flavor = "multi_thread")]
async fn busy_statements_use_indexes_on_filled_tables() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    for statement in FILL {
        store.pool.execute(statement).await.unwrap();
    }
    store.pool.execute("ANALYZE").await.unwrap();
    let alice = register(&store, registration(user(), "phone")).await;
    stored(&store, send(&alice, alice.user_id)).await;
    let mut connection = store.pool.acquire().await.unwrap();
    for (name, statement) in BUSY {
        for mode in ["force_generic_plan", "force_custom_plan"] {
            let plan = plan(&mut connection, statement, mode).await;
            let trapped = TRAPS.iter().any(|trap| plan.contains(trap));
            assert!(!trapped && plan.contains("Index"), "{name}, {mode}:\n{plan}");
        }
    }
    let dropping = plan(&mut connection, DROP_WINDOWS, "force_generic_plan").await;
    assert!(dropping.contains("group_windows_ended"), "the key begins with the device:\n{dropping}");
    // The test would see the trap: this is what the settings spare us.
    connection.execute("RESET enable_seqscan; RESET enable_hashjoin; RESET enable_bitmapscan").await.unwrap();
    let plan = plan(&mut connection, write_batch::WRITE, "force_custom_plan").await;
    assert!(TRAPS.iter().any(|trap| plan.contains(trap)), "{plan}");
    drop(connection);
    database.drop().await;
}

const TRAPS: [&str; 4] = ["Seq Scan", "Hash Join", "Merge Join", "Bitmap"];

/// How the statement would run for arrays of 256.
async fn plan(connection: &mut PgConnection, statement: &str, mode: &str) -> String {
    connection.execute(AssertSqlSafe(format!("SET plan_cache_mode = {mode}"))).await.unwrap();
    connection.execute(AssertSqlSafe(format!("PREPARE busy AS {statement}"))).await.unwrap();
    let types: Vec<String> = sqlx::query_scalar(
        "SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = 'busy' AND from_sql",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let arguments: Vec<String> = types.iter().map(|kind| argument(kind)).collect();
    let explain = format!("EXPLAIN EXECUTE busy ({})", arguments.join(", "));
    let lines: Vec<(String,)> =
        sqlx::query_as(AssertSqlSafe(explain)).persistent(false).fetch_all(&mut *connection).await.unwrap();
    connection.execute("DEALLOCATE busy; RESET plan_cache_mode").await.unwrap();
    lines.into_iter().map(|(line,)| line + "\n").collect()
}

fn argument(kind: &str) -> String {
    if let Some(element) = kind.strip_suffix("[]") {
        return format!("array_fill({}, ARRAY[256])", argument(element));
    }
    let value = match kind {
        "uuid" => "gen_random_uuid()",
        "timestamp with time zone" => "now()",
        "bytea" => "'\\x00'",
        "boolean" => "false",
        "text" => "'{1}'",
        _ => "1",
    };
    format!("{value}::{kind}")
}
