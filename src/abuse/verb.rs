//! Which budget an act is counted in.

/// What callers do, in the few classes that have a budget each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Sends, to a user or a group, and deletions of messages.
    Message,
    /// Acks, marks and signs of life.
    Ack,
    /// Whatever only looks.
    Read,
    /// Fetches of other devices' keys and key packages.
    Keys,
    /// Making and changing groups.
    Group,
    /// Bringing members into groups: adding them, minting join tokens, joining by one.
    Join,
    /// Devices, their keys and their sessions.
    Account,
    /// Opening a socket.
    Open,
    /// Asking whether the relay is ready. Never blocked: an orchestrator asks it.
    Probe,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 9] = [
        Self::Message,
        Self::Ack,
        Self::Read,
        Self::Keys,
        Self::Group,
        Self::Join,
        Self::Account,
        Self::Open,
        Self::Probe,
    ];

    /// The verb of a request: whether it only looks (GET), its decoded path, and whether it brings a join token. None for
    /// what costs nothing and must always be answered: whether the process lives.
    #[must_use]
    pub fn of(looks: bool, path: &str, has_join_token: bool) -> Option<Self> {
        let path = path.trim_matches('/');
        if let Some(path) = path.strip_prefix("api/v1/") {
            let parts: Vec<_> = path.split('/').collect();
            return Some(Self::of_api(looks, &parts, has_join_token));
        }
        match path {
            "health" | "health/live" | "healthz" => None,
            "health/ready" | "readyz" => Some(Self::Probe),
            path if path.starts_with("ws/") => Some(Self::Open),
            _ => Some(Self::Read),
        }
    }

    /// What is not known is counted in the smallest budget there is for its kind.
    fn of_api(looks: bool, parts: &[&str], has_join_token: bool) -> Self {
        match *parts {
            ["keys", "bundle" | "bundles", ..] | ["keys", "packages", _, "claim"] => Self::Keys,
            ["keys", "check", ..] => Self::Read,
            _ if looks => Self::Read,
            ["messages", "send" | "delete", ..] | ["groups", _, "send", _] => Self::Message,
            ["messages", ..] => Self::Ack,
            ["groups", _, "members", _] | ["groups", _, "invites"] => Self::Join,
            ["groups", _, "commits", _] if has_join_token => Self::Join,
            ["groups", ..] => Self::Group,
            _ => Self::Account,
        }
    }

    /// Its name, in headers and figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Ack => "ack",
            Self::Read => "read",
            Self::Keys => "keys",
            Self::Group => "group",
            Self::Join => "join",
            Self::Account => "account",
            Self::Open => "open",
            Self::Probe => "probe",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_has_its_verb() {
        let verb = |looks, path| Verb::of(looks, path, false);
        for (looks, path, expected) in [
            (false, "/api/v1/messages/send/me", Verb::Message),
            (false, "/api/v1/messages/delete/me/m", Verb::Message),
            (false, "/api/v1/groups/g/send/me", Verb::Message),
            (false, "/api/v1/messages/read/me/m", Verb::Ack),
            (false, "/api/v1/messages/queue/me/me", Verb::Ack),
            (false, "/api/v1/messages/queue/me/me/ack", Verb::Ack),
            (true, "/api/v1/messages/queue/me/me", Verb::Read),
            (true, "/api/v1/keys/bundle/u", Verb::Keys),
            (false, "/api/v1/keys/packages/u/claim", Verb::Keys),
            (false, "/api/v1/keys/packages/me/me", Verb::Account),
            (false, "/api/v1/keys/check/me/me", Verb::Read),
            (false, "/api/v1/keys/register/u", Verb::Account),
            (false, "/api/v1/auth/ticket", Verb::Account),
            (false, "/api/v1/groups/create/me", Verb::Group),
            (false, "/api/v1/groups/g/commits/me", Verb::Group),
            (false, "/api/v1/groups/g/members/u/me/remove", Verb::Group),
            (false, "/api/v1/groups/g/members/me", Verb::Join),
            (false, "/api/v1/groups/g/invites", Verb::Join),
            (false, "/api/v1/groups/g/invites/i", Verb::Group),
            (true, "/api/v1/groups/g/invites", Verb::Read),
            (true, "/api/v1/groups", Verb::Read),
            (true, "/ws/me/me", Verb::Open),
            (true, "/", Verb::Read),
            (true, "/readyz", Verb::Probe),
            (false, "/api/v1/nonsense", Verb::Account),
        ] {
            assert_eq!(verb(looks, path), Some(expected), "{path}");
        }
        assert_eq!(Verb::of(false, "/api/v1/groups/g/commits/me", true), Some(Verb::Join));
        assert_eq!(verb(true, "/healthz"), None);
    }
}
