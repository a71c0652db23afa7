-- Times are milliseconds since 1970-01-01 UTC, ids 16-byte blobs.
-- Users, devices and keys; mailboxes and messages. See src/store/mod.rs for what the acts promise.

-- A user id is claimed by its first registration, for ever.
CREATE TABLE users (
    user_id     blob NOT NULL PRIMARY KEY,
    claimed_at  integer NOT NULL
) STRICT;

-- One row for each incarnation of a device, kept after deactivation without its keys, so that device numbers are
-- given anew only when all are used up.
CREATE TABLE devices (
    device_no                integer PRIMARY KEY AUTOINCREMENT,
    user_id                  blob NOT NULL REFERENCES users (user_id),
    device_id                text NOT NULL,
    device_number            integer NOT NULL,
    registration_id          integer NOT NULL,
    device_name              text,
    created_at               integer NOT NULL,
    last_seen                integer NOT NULL,
    deactivated_at           integer,
    identity_key             blob NOT NULL,
    linked_by_device_id      text,
    linked_by_identity_key   blob,
    linked_by_signature      blob,
    signed_prekey_id         integer,
    signed_prekey            blob,
    signed_prekey_signature  blob,
    signed_prekey_at         integer,
    last_resort_id           integer,
    last_resort              blob,
    last_resort_signature    blob,
    last_resort_used         integer NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX devices_active_id ON devices (user_id, device_id) WHERE deactivated_at IS NULL;
CREATE UNIQUE INDEX devices_active_number ON devices (user_id, device_number) WHERE deactivated_at IS NULL;
CREATE INDEX devices_user ON devices (user_id);

-- One-time pre-keys that nobody has yet. kind: 1 elliptic curve, 2 KEM.
CREATE TABLE prekeys (
    device_no   integer NOT NULL REFERENCES devices (device_no),
    kind        integer NOT NULL,
    key_id      integer NOT NULL,
    public_key  blob NOT NULL,
    signature   blob,
    PRIMARY KEY (device_no, kind, key_id)
) STRICT;

-- Every pre-key ever uploaded, so that none comes back: ids within an incarnation, digests (BLAKE3 of the public
-- key) within a user. kind: 0 signed, 1 one-time, 2 KEM with last-resort ones.
CREATE TABLE prekey_ledger (
    device_no  integer NOT NULL REFERENCES devices (device_no),
    kind       integer NOT NULL,
    key_id     integer NOT NULL,
    user_id    blob NOT NULL,
    digest     blob NOT NULL,
    PRIMARY KEY (device_no, kind, key_id)
) STRICT;
CREATE INDEX prekey_ledger_digest ON prekey_ledger (user_id, digest);

CREATE TABLE sessions (
    session_id    blob NOT NULL PRIMARY KEY,
    device_no     integer NOT NULL REFERENCES devices (device_no),
    refresh_hash  blob NOT NULL UNIQUE,
    created_at    integer NOT NULL,
    expires_at    integer NOT NULL
) STRICT;
CREATE INDEX sessions_device ON sessions (device_no);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- At most one outstanding for each user.
CREATE TABLE link_tokens (
    user_id                 blob NOT NULL PRIMARY KEY REFERENCES users (user_id),
    token_hash              blob NOT NULL,
    device_id               text NOT NULL,
    identity_key            blob NOT NULL,
    linked_by_device_no     integer NOT NULL REFERENCES devices (device_no),
    linked_by_device_id     text NOT NULL,
    linked_by_identity_key  blob NOT NULL,
    linked_by_signature     blob NOT NULL,
    expires_at              integer NOT NULL
) STRICT;

CREATE TABLE revocations (
    revocation_id  integer PRIMARY KEY AUTOINCREMENT,
    device_no      integer NOT NULL,
    revoked_at     integer NOT NULL
) STRICT;
CREATE INDEX revocations_time ON revocations (revoked_at);

-- One row for each active device; no row, no mail. spare: while head is at most this, no limit can be reached and
-- nothing needs counting.
CREATE TABLE mailboxes (
    device_no  integer PRIMARY KEY REFERENCES devices (device_no),
    user_id    blob NOT NULL,
    head       integer NOT NULL DEFAULT 0,
    sequence   integer NOT NULL DEFAULT 0,
    spare      integer NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX mailboxes_user ON mailboxes (user_id);

-- What was accepted, without bodies: kept for 30 days, so that ids are recognised. kind: 0 message, 1 deletion notice.
-- places: a JSON array of [device_no, position], where its bodies were put; "delivered" is their absence from
-- mailbox_items.
-- due_at: when this row needs attention next (its bodies expire, or it is forgotten).
CREATE TABLE messages (
    message_id            blob NOT NULL PRIMARY KEY,
    kind                  integer NOT NULL,
    digest                blob,
    sender_no             integer NOT NULL,
    sender_id             blob NOT NULL,
    recipient_id          blob NOT NULL,
    conversation_id       blob,
    sequence              integer,
    message_type          integer,
    deletes               blob,
    accepted_at           integer NOT NULL,
    expires_at            integer NOT NULL,
    due_at                integer NOT NULL,
    self_destructing      integer NOT NULL DEFAULT 0,
    delivered_at          integer,
    read_at               integer,
    lost                  integer NOT NULL DEFAULT 0,
    deleted               integer NOT NULL DEFAULT 0,
    hidden_from_sender    integer NOT NULL DEFAULT 0,
    hidden_from_recipient integer NOT NULL DEFAULT 0,
    places                text NOT NULL
) STRICT;
CREATE INDEX messages_conversation ON messages (conversation_id, sequence) WHERE conversation_id IS NOT NULL;
CREATE INDEX messages_due ON messages (due_at);

-- The bodies, until acked, deleted or expired.
CREATE TABLE mailbox_items (
    device_no      integer NOT NULL,
    position       integer NOT NULL,
    message_id     blob NOT NULL,
    sender_id      blob NOT NULL,
    expires_at     integer NOT NULL,
    envelope_type  integer,
    ephemeral_key  blob,
    body           blob,
    PRIMARY KEY (device_no, position)
) STRICT;
