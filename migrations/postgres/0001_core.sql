-- Users, devices and keys; mailboxes and messages. See src/store/mod.rs for what the acts promise.

-- A user id is claimed by its first registration, for ever.
CREATE TABLE users (
    user_id     uuid PRIMARY KEY,
    claimed_at  timestamptz NOT NULL
);

-- One row for each incarnation of a device, kept after deactivation without its keys, so that device numbers are
-- given anew only when all are used up.
CREATE TABLE devices (
    device_no                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id                  uuid NOT NULL REFERENCES users,
    device_id                text NOT NULL,
    device_number            smallint NOT NULL,
    registration_id          integer NOT NULL,
    device_name              text,
    created_at               timestamptz NOT NULL,
    last_seen                timestamptz NOT NULL,
    deactivated_at           timestamptz,
    identity_key             bytea NOT NULL,
    linked_by_device_id      text,
    linked_by_identity_key   bytea,
    linked_by_signature      bytea,
    signed_prekey_id         bigint,
    signed_prekey            bytea,
    signed_prekey_signature  bytea,
    signed_prekey_at         timestamptz,
    last_resort_id           bigint,
    last_resort              bytea,
    last_resort_signature    bytea,
    last_resort_used         boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX devices_active_id ON devices (user_id, device_id) WHERE deactivated_at IS NULL;
CREATE UNIQUE INDEX devices_active_number ON devices (user_id, device_number) WHERE deactivated_at IS NULL;
CREATE INDEX devices_user ON devices (user_id);

-- One-time pre-keys that nobody has yet. kind: 1 elliptic curve, 2 KEM.
CREATE TABLE prekeys (
    device_no   bigint NOT NULL REFERENCES devices,
    kind        smallint NOT NULL,
    key_id      bigint NOT NULL,
    public_key  bytea NOT NULL,
    signature   bytea,
    PRIMARY KEY (device_no, kind, key_id)
);

-- Every pre-key ever uploaded, so that none comes back: ids within an incarnation, digests (BLAKE3 of the public
-- key) within a user. kind: 0 signed, 1 one-time, 2 KEM with last-resort ones.
CREATE TABLE prekey_ledger (
    device_no  bigint NOT NULL REFERENCES devices,
    kind       smallint NOT NULL,
    key_id     bigint NOT NULL,
    user_id    uuid NOT NULL,
    digest     bytea NOT NULL,
    PRIMARY KEY (device_no, kind, key_id)
);
CREATE INDEX prekey_ledger_digest ON prekey_ledger (user_id, digest);

CREATE TABLE sessions (
    session_id    uuid PRIMARY KEY,
    device_no     bigint NOT NULL REFERENCES devices,
    refresh_hash  bytea NOT NULL UNIQUE,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL
);
CREATE INDEX sessions_device ON sessions (device_no);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- At most one outstanding for each user.
CREATE TABLE link_tokens (
    user_id                 uuid PRIMARY KEY REFERENCES users,
    token_hash              bytea NOT NULL,
    device_id               text NOT NULL,
    identity_key            bytea NOT NULL,
    linked_by_device_no     bigint NOT NULL REFERENCES devices,
    linked_by_device_id     text NOT NULL,
    linked_by_identity_key  bytea NOT NULL,
    linked_by_signature     bytea NOT NULL,
    expires_at              timestamptz NOT NULL
);

CREATE TABLE revocations (
    revocation_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_no      bigint NOT NULL,
    revoked_at     timestamptz NOT NULL
);
CREATE INDEX revocations_time ON revocations (revoked_at);

-- One row for each active device; no row, no mail. spare: while head is at most this, no limit can be reached and
-- nothing needs counting.
CREATE TABLE mailboxes (
    device_no  bigint PRIMARY KEY REFERENCES devices,
    user_id    uuid NOT NULL,
    head       bigint NOT NULL DEFAULT 0,
    sequence   bigint NOT NULL DEFAULT 0,
    spare      bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX mailboxes_user ON mailboxes (user_id);

-- What was accepted, without bodies: kept for 30 days, so that ids are recognised. kind: 0 message, 1 deletion notice.
-- (device_nos[i], positions[i]) are the places its bodies were put; "delivered" is their absence from mailbox_items.
-- due_at: when this row needs attention next (its bodies expire, or it is forgotten).
CREATE TABLE messages (
    message_id            uuid PRIMARY KEY,
    kind                  smallint NOT NULL,
    digest                bytea,
    sender_no             bigint NOT NULL,
    sender_id             uuid NOT NULL,
    recipient_id          uuid NOT NULL,
    conversation_id       uuid,
    sequence              bigint,
    message_type          smallint,
    deletes               uuid,
    accepted_at           timestamptz NOT NULL,
    expires_at            timestamptz NOT NULL,
    due_at                timestamptz NOT NULL,
    self_destructing      boolean NOT NULL DEFAULT false,
    delivered_at          timestamptz,
    read_at               timestamptz,
    lost                  boolean NOT NULL DEFAULT false,
    deleted               boolean NOT NULL DEFAULT false,
    hidden_from_sender    boolean NOT NULL DEFAULT false,
    hidden_from_recipient boolean NOT NULL DEFAULT false,
    device_nos            bigint[] NOT NULL,
    positions             bigint[] NOT NULL
);
CREATE INDEX messages_conversation ON messages (conversation_id, sequence) WHERE conversation_id IS NOT NULL;
CREATE INDEX messages_due ON messages (due_at);

-- The bodies, until acked, deleted or expired. Vacuumed early, so that what was erased does not linger in dead rows.
CREATE TABLE mailbox_items (
    device_no      bigint NOT NULL,
    position       bigint NOT NULL,
    message_id     uuid NOT NULL,
    sender_id      uuid NOT NULL,
    expires_at     timestamptz NOT NULL,
    envelope_type  smallint,
    ephemeral_key  bytea,
    body           bytea,
    PRIMARY KEY (device_no, position)
) WITH (autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_scale_factor = 0.02);

-- Erases one item; whether it was there. A function, because a DELETE that is joined with arrays is planned by what the
-- planner believes of the table: emptied and vacuumed, it counts as tiny, and every batch then reads all of it.
CREATE FUNCTION erase_item(device bigint, place bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM mailbox_items WHERE device_no = device AND "position" = place;
    RETURN FOUND;
END
$$;
