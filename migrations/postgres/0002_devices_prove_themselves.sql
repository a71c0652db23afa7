-- Sessions that are refreshed, things that work once, logouts, the trail of security events.

-- previous_hash: the refresh token before the current one. rotated_at: when the current one was given. last_used: by the
-- day. The defaults are for nodes of the version before, which know nothing of these columns.
ALTER TABLE sessions
    ADD COLUMN previous_hash  bytea,
    ADD COLUMN rotated_at     timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN last_used      timestamptz NOT NULL DEFAULT date_trunc('day', now(), 'UTC');
UPDATE sessions SET rotated_at = created_at, last_used = date_trunc('day', created_at, 'UTC');

-- Without a session the whole incarnation is revoked.
ALTER TABLE revocations ADD COLUMN session_id uuid;

-- expelled: ended by another device of its user.
ALTER TABLE devices ADD COLUMN expelled boolean NOT NULL DEFAULT false;

-- Things that work once (challenges, tickets, admission tokens) and were used: BLAKE3 of each.
CREATE TABLE used_tokens (
    token_hash  bytea PRIMARY KEY,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX used_tokens_expiry ON used_tokens (expires_at);

-- Security events. subject: the user's pseudonym. by_number: the device that did it, where that is another.
CREATE TABLE audit (
    entry          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject        bytea NOT NULL,
    event          smallint NOT NULL,
    device_number  smallint,
    by_number      smallint,
    at             timestamptz NOT NULL
);
CREATE INDEX audit_subject ON audit (subject, entry);
CREATE INDEX audit_time ON audit (at);

-- What was entered stays as it was entered; it goes by age alone.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries of the audit trail are never changed';
END
$$;
CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- messages.kind 2: the user's list of devices changed. Its items have a body, the list, and no envelope_type; at most one
-- lies in a mailbox.
CREATE INDEX mailbox_items_lists ON mailbox_items (device_no) WHERE envelope_type IS NULL AND body IS NOT NULL;
