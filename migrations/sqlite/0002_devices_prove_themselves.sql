-- Sessions that are refreshed, things that work once, logouts, the trail of security events.

-- previous_hash: the refresh token before the current one. rotated_at: when the current one was given. last_used: a day.
ALTER TABLE sessions ADD COLUMN previous_hash blob;
ALTER TABLE sessions ADD COLUMN rotated_at integer NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN last_used integer NOT NULL DEFAULT 0;
UPDATE sessions SET rotated_at = created_at, last_used = created_at - created_at % 86400000;

-- Without a session every token of the incarnation is revoked.
ALTER TABLE revocations ADD COLUMN session_id blob;

-- Whether another device of the user ended it: such an identity key brings nobody back.
ALTER TABLE devices ADD COLUMN expelled integer NOT NULL DEFAULT 0;

-- Challenges, tickets and admission tokens that were used, for as long as they could come again.
CREATE TABLE used_tokens (
    token_hash  blob NOT NULL PRIMARY KEY,
    expires_at  integer NOT NULL
) STRICT;
CREATE INDEX used_tokens_expiry ON used_tokens (expires_at);

-- What changed who can act or read as a user. subject: the user's pseudonym. event: see domain::SecurityEvent.
-- Entries are added, and forgotten when they are old.
CREATE TABLE audit (
    entry          integer PRIMARY KEY AUTOINCREMENT,
    subject        blob NOT NULL,
    event          integer NOT NULL,
    device_number  integer,
    by_number      integer,
    at             integer NOT NULL
) STRICT;
CREATE INDEX audit_subject ON audit (subject, entry);
CREATE INDEX audit_age ON audit (at);
CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;

-- messages.kind has a further value: 2, a notice that the list of the user's own devices changed. Its item has no
-- envelope type, and the list as its body. A deletion notice's item has neither.
