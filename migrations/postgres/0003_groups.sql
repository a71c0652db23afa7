-- MLS keys and key packages; groups, their rosters, logs and windows.

-- A device's MLS signature keys, and every one there was, so that none is two devices'. current: the key in use; the
-- others are known by their bytes alone.
CREATE TABLE mls_keys (
    public_key  bytea PRIMARY KEY,
    device_no   bigint NOT NULL REFERENCES devices,
    scheme      smallint NOT NULL,
    signature   bytea,
    current     boolean NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX mls_keys_current ON mls_keys (device_no, scheme) WHERE current;

-- Every key package, until a day after its leaf's end. body: while it may be handed out. state: 0 stored, 1 handed out,
-- 2 used in a group, 3 dropped. A last-resort one stays 0 while it is current, and is marked as given.
CREATE TABLE key_packages (
    package_no       bigint GENERATED ALWAYS AS IDENTITY,
    reference        bytea PRIMARY KEY,
    device_no        bigint NOT NULL REFERENCES devices,
    user_id          uuid NOT NULL,
    cipher_suite     smallint NOT NULL,
    last_resort      boolean NOT NULL,
    state            smallint NOT NULL DEFAULT 0,
    given            boolean NOT NULL DEFAULT false,
    signature_key    bytea NOT NULL,
    init_key_digest  bytea NOT NULL,
    body_digest      bytea NOT NULL,
    not_after        timestamptz NOT NULL,
    body             bytea
);
CREATE INDEX key_packages_stored ON key_packages (device_no, cipher_suite, last_resort, package_no) WHERE state = 0;
CREATE UNIQUE INDEX key_packages_init_key ON key_packages (user_id, init_key_digest);
CREATE INDEX key_packages_end ON key_packages (not_after);
CREATE INDEX key_packages_ended ON key_packages (not_after) WHERE body IS NOT NULL;
CREATE INDEX key_packages_device ON key_packages (device_no);

-- What every send touches, and so kept small. oldest_epoch: the lowest from which application messages are taken. tail: the
-- first position that may be left in the log. version: see Standing::version.
CREATE TABLE groups (
    group_id       uuid PRIMARY KEY,
    handshake      smallint NOT NULL,
    external_join  smallint NOT NULL,
    cipher_suite   smallint,
    generation     bigint NOT NULL DEFAULT 0,
    epoch          bigint NOT NULL DEFAULT 0,
    oldest_epoch   bigint NOT NULL DEFAULT 0,
    version        bigint NOT NULL DEFAULT 0,
    head           bigint NOT NULL DEFAULT 0,
    tail           bigint NOT NULL DEFAULT 1,
    rolled_back    boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- founding: digest of the request that made the group, by founder_no. reset_digest: of the one that made this generation, by
-- reset_by. reset_at, changed_at: the positions of the last reset and the last membership entry.
CREATE TABLE group_profiles (
    group_id      uuid PRIMARY KEY REFERENCES groups ON DELETE CASCADE,
    name          text,
    description   text,
    created_by    uuid NOT NULL,
    created_at    timestamptz NOT NULL,
    founder_no    bigint NOT NULL,
    founding      bytea NOT NULL,
    reset_by      bigint,
    reset_digest  bytea,
    reset_at      bigint NOT NULL DEFAULT 0,
    changed_at    bigint NOT NULL DEFAULT 0
);

-- role: 0 member, 1 admin, 2 owner. joined: the order of joining.
CREATE TABLE group_members (
    group_id   uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    user_id    uuid NOT NULL,
    role       smallint NOT NULL,
    invited    boolean NOT NULL DEFAULT false,
    joined     bigint GENERATED ALWAYS AS IDENTITY,
    joined_at  timestamptz NOT NULL,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX group_members_user ON group_members (user_id, group_id);
CREATE UNIQUE INDEX group_members_owner ON group_members (group_id) WHERE role = 2;

-- The leaves of an MLS group in its current epoch.
CREATE TABLE group_leaves (
    group_id    uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    device_no   bigint NOT NULL REFERENCES devices,
    user_id     uuid NOT NULL,
    leaf_index  bigint,
    leaving     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (group_id, device_no)
);
CREATE INDEX group_leaves_device ON group_leaves (device_no);

-- See domain::Window. At most one of a device and group has not ended.
CREATE TABLE group_windows (
    device_no     bigint NOT NULL,
    group_id      uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    opened_after  bigint NOT NULL,
    closed_at     bigint,
    cursor        bigint NOT NULL,
    gate          bigint NOT NULL,
    joined_epoch  bigint NOT NULL,
    PRIMARY KEY (device_no, group_id, opened_after)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX group_windows_open ON group_windows (group_id, device_no) WHERE closed_at IS NULL;
CREATE INDEX group_windows_ended ON group_windows (group_id, closed_at);

-- One row for each entry, whatever the size of the group. kind: see domain::EntryKind. closes: the devices whose windows
-- end with it. body: none once it expired.
CREATE TABLE group_log (
    group_id      uuid NOT NULL,
    position      bigint NOT NULL,
    kind          smallint NOT NULL,
    message_id    uuid NOT NULL,
    digest        bytea NOT NULL,
    sender_no     bigint NOT NULL,
    sender_id     uuid NOT NULL,
    epoch         bigint NOT NULL,
    message_type  smallint,
    accepted_at   timestamptz NOT NULL,
    expires_at    timestamptz,
    closes        bigint[],
    body          bytea,
    PRIMARY KEY (group_id, position)
);
CREATE UNIQUE INDEX group_log_message ON group_log (message_id);
CREATE INDEX group_log_age ON group_log (accepted_at);
CREATE INDEX group_log_expiry ON group_log (expires_at) WHERE expires_at IS NOT NULL AND body IS NOT NULL;

-- The second guard of "one commit for an epoch". Goes with its entry.
CREATE TABLE group_commits (
    group_id    uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    generation  bigint NOT NULL,
    epoch       bigint NOT NULL,
    position    bigint NOT NULL,
    sender_no   bigint NOT NULL,
    digest      bytea NOT NULL,
    PRIMARY KEY (group_id, generation, epoch)
);
CREATE INDEX group_commits_position ON group_commits (group_id, position);

CREATE TABLE mls_group_states (
    group_id    uuid PRIMARY KEY REFERENCES groups ON DELETE CASCADE,
    digest      bytea,
    state       bytea,
    group_info  bytea NOT NULL
);

-- Of the current epoch, and of those at which somebody joined by a Welcome. kept_from: when the epoch ended; 'infinity'
-- while it is the current one.
CREATE TABLE group_trees (
    group_id    uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    generation  bigint NOT NULL,
    epoch       bigint NOT NULL,
    joined      boolean NOT NULL,
    tree        bytea NOT NULL,
    kept_from   timestamptz NOT NULL,
    PRIMARY KEY (group_id, generation, epoch)
);
CREATE INDEX group_trees_age ON group_trees (kept_from);

-- Of the current epoch. target_no: 0 for none.
CREATE TABLE group_proposals (
    group_id   uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    position   bigint NOT NULL,
    sender_no  bigint NOT NULL,
    target_no  bigint NOT NULL,
    digest     bytea NOT NULL,
    body       bytea NOT NULL,
    PRIMARY KEY (group_id, position)
);

CREATE TABLE group_invites (
    group_id    uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    invite_id   uuid NOT NULL,
    token_hash  bytea NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (group_id, invite_id)
);
CREATE INDEX group_invites_expiry ON group_invites (expires_at);

CREATE TABLE group_reports (
    group_id      uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    generation    bigint NOT NULL,
    epoch         bigint NOT NULL,
    reporter_no   bigint NOT NULL,
    commit_digest bytea NOT NULL,
    reason        text NOT NULL,
    reported_at   timestamptz NOT NULL,
    PRIMARY KEY (group_id, generation, epoch, reporter_no)
);
CREATE INDEX group_reports_age ON group_reports (reported_at);

-- messages.kind 3: a Welcome. 4: a device may read a group's log. Their items have a body and no envelope_type. One row
-- stands for all items of an act; each item has a body of its own.
