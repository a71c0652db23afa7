-- Networks that are blocked, or were of late. network: a keyed hash. level: how often it was blocked in a row.
CREATE TABLE blocks (
    network        blob NOT NULL PRIMARY KEY,
    level          integer NOT NULL,
    blocked_until  integer NOT NULL
) STRICT;
CREATE INDEX blocks_end ON blocks (blocked_until);
