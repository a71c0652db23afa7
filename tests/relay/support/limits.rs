//! The settings that limit how often somebody may act, for relays that are not to be held up by them. The load driver
//! includes this file too.

/// The paces of devices; 0 is no limit.
pub(crate) const PACES: [&str; 8] = [
    "RATE_LIMIT_MESSAGE_LIMIT",
    "RATE_LIMIT_ACK_LIMIT",
    "RATE_LIMIT_READ_LIMIT",
    "RATE_LIMIT_KEYS_LIMIT",
    "RATE_LIMIT_GROUP_LIMIT",
    "RATE_LIMIT_JOIN_LIMIT",
    "RATE_LIMIT_ACCOUNT_LIMIT",
    "RATE_LIMIT_OPEN_LIMIT",
];

/// The limits of networks and users, and what a network has for each device.
pub(crate) const OTHERS: [&str; 11] = [
    "MAX_CONNECTIONS_PER_ADDRESS",
    "RATE_LIMIT_DEVICES_PER_IP",
    "RATE_LIMIT_CONNECTION_LIMIT_PER_IP",
    "RATE_LIMIT_CONNECTION_LIMIT_PER_USER",
    "RATE_LIMIT_BLOCK_AFTER",
    "REGISTER_LIMIT_PER_ADDRESS",
    "LOGIN_LIMIT_PER_ADDRESS",
    "REFRESH_LIMIT_PER_ADDRESS",
    "FETCH_LIMIT_PER_PAIR",
    "FETCH_LIMIT_PER_USER",
    "FETCH_LIMIT_FOR_NEW_USERS",
];

/// So many acts that nobody meets a limit.
pub(crate) const PLENTY: &str = "1000000";
