//! Values that cannot be beside each other, or that are known to be wrong only when all are read.

use super::{AuthMode, Config, RegistrationMode, reader::Reader};

impl Config {
    /// Tells what is wrong with the settings beyond what is wrong with each as it is read.
    pub(super) fn check_combinations(&self, reader: &mut Reader) {
        for (name, value) in [("RELAY_NAME", &self.relay_name), ("REDIS_PREFIX", &self.redis_prefix)] {
            // Both become parts of longer texts, where an odd byte could make two of them look like one.
            if value.len() > 255 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                reader.fault(
                    name,
                    format!("{name} must be at most 255 visible ASCII characters without a space"),
                );
            }
        }
        for origin in self.cors_allowed_origins.iter().filter(|origin| !is_origin(origin)) {
            let fault =
                format!("CORS_ALLOWED_ORIGINS: {origin} is not an origin such as https://app.example.org");
            reader.fault("CORS_ALLOWED_ORIGINS", fault);
        }
        self.check_engines(reader);
        self.check_admission(reader);
        if self.auth_mode == AuthMode::Open && !self.host.is_loopback() && !self.auth_open_allow_remote {
            reader.clash(
                &["AUTH_MODE", "HOST", "AUTH_OPEN_ALLOW_REMOTE"],
                "AUTH_MODE=open trusts every caller, and HOST is not a loopback address: set AUTH_OPEN_ALLOW_REMOTE=true \
                 if that is really meant",
            );
        }
        if self.socket.silence <= self.socket.heartbeat {
            let names = ["WS_CLIENT_TIMEOUT", "WS_HEARTBEAT_INTERVAL"];
            reader.clash(&names, "WS_CLIENT_TIMEOUT must be longer than WS_HEARTBEAT_INTERVAL");
        }
        if self.store_limits.mailbox_items_per_sender > self.store_limits.mailbox_items {
            let names = ["MAX_MAILBOX_ITEMS_PER_SENDER", "MAX_MAILBOX_ITEMS"];
            reader.clash(&names, "MAX_MAILBOX_ITEMS_PER_SENDER must not exceed MAX_MAILBOX_ITEMS");
        }
        self.check_sizes(reader);
    }

    fn check_engines(&self, reader: &mut Reader) {
        if self.redis_url.is_some() && self.database_url.is_none() {
            reader.clash(
                &["REDIS_URL", "DATABASE_URL"],
                "REDIS_URL is set without DATABASE_URL: Redis serves several nodes, which need Postgres",
            );
        }
        if self.database_url.is_some() && self.master_secret.is_none() {
            reader.clash(
                &["DATABASE_URL", "MASTER_SECRET"],
                "MASTER_SECRET is missing: with DATABASE_URL every node needs the same one (32 bytes in base64, for \
                 example from `openssl rand -base64 32`)",
            );
        }
        if self.database_url.is_some() && self.token_signing_key.is_none() {
            reader.clash(
                &["DATABASE_URL", "TOKEN_SIGNING_KEY"],
                "TOKEN_SIGNING_KEY is missing: with DATABASE_URL every node needs the same one (32 bytes in base64, for \
                 example from `openssl rand -base64 32`, or a file with such lines)",
            );
        }
    }

    fn check_admission(&self, reader: &mut Reader) {
        let (key, jwks) = (self.admission.key.is_some(), self.admission.jwks.is_some());
        if self.registration == RegistrationMode::Token && !key && !jwks {
            let names = ["REGISTRATION", "ADMISSION_KEY", "ADMISSION_JWKS"];
            reader.clash(&names, "REGISTRATION=token needs ADMISSION_KEY or ADMISSION_JWKS");
        }
        if key && jwks {
            let names = ["ADMISSION_KEY", "ADMISSION_JWKS"];
            reader.clash(&names, "ADMISSION_KEY and ADMISSION_JWKS exclude each other");
        }
    }

    fn check_sizes(&self, reader: &mut Reader) {
        if self.limits.send < self.limits.envelope {
            let names = ["MAX_SEND_BYTES", "RATE_LIMIT_MAX_MESSAGE_SIZE", "MAX_ENVELOPE_BYTES"];
            reader.clash(&names, "MAX_SEND_BYTES must not be less than MAX_ENVELOPE_BYTES");
        }
        if self.limits.send / 3 * 4 + 4096 > self.limits.message_body {
            let names = ["MAX_SEND_BYTES", "RATE_LIMIT_MAX_MESSAGE_SIZE", "MAX_MESSAGE_BODY_BYTES"];
            reader.clash(&names, "MAX_MESSAGE_BODY_BYTES is too small for MAX_SEND_BYTES in base64");
        }
    }
}

/// Whether this is an origin as browsers write it: scheme, host, perhaps a port, all in lower case. Pages inside an
/// application have schemes of their own.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = |byte: u8| plain(byte) || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| plain(byte) || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme && !host.is_empty() && host.bytes().all(fits)
}
