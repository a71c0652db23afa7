-- Networks that are blocked, or were of late. network: a keyed hash. level: how often it was blocked in a row.
CREATE TABLE blocks (
    network        bytea PRIMARY KEY,
    level          integer NOT NULL,
    blocked_until  timestamptz NOT NULL
);
CREATE INDEX blocks_end ON blocks (blocked_until);
