//! Why sockets are closed.

use crate::{metrics, queue::outbox::Outbox};

/// Why a socket is closed (proto-docs/websocket.md, "Close codes").
#[derive(Debug, Clone, Copy)]
pub(super) enum Goodbye {
    /// The peer closed, or is gone.
    Gone,
    GoingAway,
    /// The store could not be asked when the socket opened.
    TryAgain,
    ProtocolError,
    TokenExpired,
    Deactivated,
    Stalled,
    Replaced,
    Silent,
    /// The device went on although it was refused, and its network is shut out.
    Blocked,
}

impl Goodbye {
    /// Every reason there is.
    const ALL: [Self; 10] = [
        Self::Gone,
        Self::GoingAway,
        Self::TryAgain,
        Self::ProtocolError,
        Self::TokenExpired,
        Self::Deactivated,
        Self::Stalled,
        Self::Replaced,
        Self::Silent,
        Self::Blocked,
    ];

    /// Lets it be known which reasons are counted.
    pub(super) fn count_from_zero() {
        for goodbye in Self::ALL {
            goodbye.count(0);
        }
    }

    /// Counts sockets that ended so.
    pub(super) fn count(self, sockets: u64) {
        metrics::sockets_closed(self.word(), sockets);
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::GoingAway => "going_away",
            Self::TryAgain => "try_again",
            Self::ProtocolError => "protocol_error",
            Self::TokenExpired => "token_expired",
            Self::Deactivated => "deactivated",
            Self::Stalled => "stalled",
            Self::Replaced => "replaced",
            Self::Silent => "silent",
            Self::Blocked => "blocked",
        }
    }

    /// Writes the last of a socket.
    pub(super) fn say(self, outbox: &Outbox) {
        // Who has no right to what waits any more does not get it, and who does not take it would only hold it.
        if matches!(self, Self::Deactivated | Self::TokenExpired | Self::Replaced | Self::Stalled) {
            outbox.clear();
        }
        match self.frame() {
            Some((code, reason)) => outbox.close(code, reason),
            None => outbox.finish(None),
        }
    }

    /// The close code and its reason; none when nobody would hear it.
    const fn frame(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Gone => None,
            Self::GoingAway => Some((1001, "going away")),
            Self::TryAgain => Some((1013, "try again later")),
            Self::ProtocolError => Some((4400, "protocol error")),
            Self::TokenExpired => Some((4401, "token expired")),
            Self::Deactivated => Some((4403, "device deactivated")),
            Self::Stalled | Self::Silent => Some((4408, "timed out")),
            Self::Blocked => Some((4429, "blocked")),
            Self::Replaced => Some((4409, "replaced by a newer connection")),
        }
    }
}
