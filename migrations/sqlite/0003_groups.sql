-- MLS keys and key packages; groups, their rosters, logs and windows.

-- A device's MLS signature keys, and every one there was, so that none is two devices'. current: the key in use; the
-- others are known by their bytes alone.
CREATE TABLE mls_keys (
    public_key  blob NOT NULL PRIMARY KEY,
    device_no   integer NOT NULL REFERENCES devices (device_no),
    scheme      integer NOT NULL,
    signature   blob,
    current     integer NOT NULL DEFAULT 1
) STRICT;
CREATE UNIQUE INDEX mls_keys_current ON mls_keys (device_no, scheme) WHERE current;

-- Every key package, until a day after its leaf's end. body: while it may be handed out. state: 0 stored, 1 handed out,
-- 2 used in a group, 3 dropped. A last-resort one stays 0 while it is current, and is marked as given.
CREATE TABLE key_packages (
    package_no       integer PRIMARY KEY,
    reference        blob NOT NULL UNIQUE,
    device_no        integer NOT NULL REFERENCES devices (device_no),
    user_id          blob NOT NULL,
    cipher_suite     integer NOT NULL,
    last_resort      integer NOT NULL,
    state            integer NOT NULL DEFAULT 0,
    given            integer NOT NULL DEFAULT 0,
    signature_key    blob NOT NULL,
    init_key_digest  blob NOT NULL,
    body_digest      blob NOT NULL,
    not_after        integer NOT NULL,
    body             blob
) STRICT;
CREATE INDEX key_packages_stored ON key_packages (device_no, cipher_suite, last_resort, package_no) WHERE state = 0;
CREATE UNIQUE INDEX key_packages_init_key ON key_packages (user_id, init_key_digest);
CREATE INDEX key_packages_end ON key_packages (not_after);
CREATE INDEX key_packages_ended ON key_packages (not_after) WHERE body IS NOT NULL;
CREATE INDEX key_packages_device ON key_packages (device_no);

-- What every send touches, and so kept small. oldest_epoch: the lowest from which application messages are taken. tail: the
-- first position that may be left in the log. version: see Standing::version.
CREATE TABLE groups (
    group_id       blob NOT NULL PRIMARY KEY,
    handshake      integer NOT NULL,
    external_join  integer NOT NULL,
    cipher_suite   integer,
    generation     integer NOT NULL DEFAULT 0,
    epoch          integer NOT NULL DEFAULT 0,
    oldest_epoch   integer NOT NULL DEFAULT 0,
    version        integer NOT NULL DEFAULT 0,
    head           integer NOT NULL DEFAULT 0,
    tail           integer NOT NULL DEFAULT 1,
    rolled_back    integer NOT NULL DEFAULT 0
) STRICT;

-- founding: digest of the request that made the group, by founder_no. reset_digest: of the one that made this generation, by
-- reset_by. reset_at, changed_at: the positions of the last reset and the last membership entry.
CREATE TABLE group_profiles (
    group_id      blob NOT NULL PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    name          text,
    description   text,
    created_by    blob NOT NULL,
    created_at    integer NOT NULL,
    founder_no    integer NOT NULL,
    founding      blob NOT NULL,
    reset_by      integer,
    reset_digest  blob,
    reset_at      integer NOT NULL DEFAULT 0,
    changed_at    integer NOT NULL DEFAULT 0
) STRICT;

-- role: 0 member, 1 admin, 2 owner. joined: the order of joining.
CREATE TABLE group_members (
    joined     integer PRIMARY KEY AUTOINCREMENT,
    group_id   blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    user_id    blob NOT NULL,
    role       integer NOT NULL,
    invited    integer NOT NULL DEFAULT 0,
    joined_at  integer NOT NULL,
    UNIQUE (group_id, user_id)
) STRICT;
CREATE INDEX group_members_user ON group_members (user_id, group_id);
CREATE UNIQUE INDEX group_members_owner ON group_members (group_id) WHERE role = 2;

-- The leaves of an MLS group in its current epoch, in the order of joining.
CREATE TABLE group_leaves (
    leaf_no     integer PRIMARY KEY AUTOINCREMENT,
    group_id    blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    device_no   integer NOT NULL REFERENCES devices (device_no),
    user_id     blob NOT NULL,
    leaf_index  integer,
    leaving     integer NOT NULL DEFAULT 0,
    UNIQUE (group_id, device_no)
) STRICT;
CREATE INDEX group_leaves_device ON group_leaves (device_no);

-- See domain::Window. At most one of a device and group has not ended.
CREATE TABLE group_windows (
    device_no     integer NOT NULL,
    group_id      blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    opened_after  integer NOT NULL,
    closed_at     integer,
    cursor        integer NOT NULL,
    gate          integer NOT NULL,
    joined_epoch  integer NOT NULL,
    PRIMARY KEY (device_no, group_id, opened_after)
) STRICT;
CREATE UNIQUE INDEX group_windows_open ON group_windows (group_id, device_no) WHERE closed_at IS NULL;
CREATE INDEX group_windows_ended ON group_windows (group_id, closed_at);

-- One row for each entry, whatever the size of the group. kind: see domain::EntryKind. closes: a JSON array of the devices
-- whose windows end with it, ascending; null for none. body: none once it expired.
CREATE TABLE group_log (
    group_id      blob NOT NULL,
    position      integer NOT NULL,
    kind          integer NOT NULL,
    message_id    blob NOT NULL,
    digest        blob NOT NULL,
    sender_no     integer NOT NULL,
    sender_id     blob NOT NULL,
    epoch         integer NOT NULL,
    message_type  integer,
    accepted_at   integer NOT NULL,
    expires_at    integer,
    closes        text,
    body          blob,
    PRIMARY KEY (group_id, position)
) STRICT;
CREATE UNIQUE INDEX group_log_message ON group_log (message_id);
CREATE INDEX group_log_age ON group_log (accepted_at);
CREATE INDEX group_log_expiry ON group_log (expires_at) WHERE expires_at IS NOT NULL AND body IS NOT NULL;

-- The second guard of "one commit for an epoch". Goes with its entry.
CREATE TABLE group_commits (
    group_id    blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    generation  integer NOT NULL,
    epoch       integer NOT NULL,
    position    integer NOT NULL,
    sender_no   integer NOT NULL,
    digest      blob NOT NULL,
    PRIMARY KEY (group_id, generation, epoch)
) STRICT;
CREATE INDEX group_commits_position ON group_commits (group_id, position);

CREATE TABLE mls_group_states (
    group_id    blob NOT NULL PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    digest      blob,
    state       blob,
    group_info  blob NOT NULL
) STRICT;

-- Of the current epoch, and of those at which somebody joined by a Welcome. kept_from: when the epoch ended; the largest integer
-- while it is the current one.
CREATE TABLE group_trees (
    group_id    blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    generation  integer NOT NULL,
    epoch       integer NOT NULL,
    joined      integer NOT NULL,
    tree        blob NOT NULL,
    kept_from   integer NOT NULL,
    PRIMARY KEY (group_id, generation, epoch)
) STRICT;
CREATE INDEX group_trees_age ON group_trees (kept_from);

-- Of the current epoch. target_no: 0 for none.
CREATE TABLE group_proposals (
    group_id   blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    position   integer NOT NULL,
    sender_no  integer NOT NULL,
    target_no  integer NOT NULL,
    digest     blob NOT NULL,
    body       blob NOT NULL,
    PRIMARY KEY (group_id, position)
) STRICT;

CREATE TABLE group_invites (
    group_id    blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    invite_id   blob NOT NULL,
    token_hash  blob NOT NULL,
    created_at  integer NOT NULL,
    expires_at  integer NOT NULL,
    PRIMARY KEY (group_id, invite_id)
) STRICT;
CREATE INDEX group_invites_expiry ON group_invites (expires_at);

CREATE TABLE group_reports (
    group_id       blob NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    generation     integer NOT NULL,
    epoch          integer NOT NULL,
    reporter_no    integer NOT NULL,
    commit_digest  blob NOT NULL,
    reason         text NOT NULL,
    reported_at    integer NOT NULL,
    PRIMARY KEY (group_id, generation, epoch, reporter_no)
) STRICT;
CREATE INDEX group_reports_age ON group_reports (reported_at);

-- messages.kind 3: a Welcome. 4: a device may read a group's log. Their items have a body and no envelope_type.
