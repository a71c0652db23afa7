//! How a session ends.

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
}

impl Goodbye {
    /// The close frame's code and reason; none when nobody is there to read it.
    pub(super) const fn frame(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Gone => None,
            Self::GoingAway => Some((1001, "going away")),
            Self::TryAgain => Some((1013, "try again later")),
            Self::ProtocolError => Some((4400, "protocol error")),
            Self::TokenExpired => Some((4401, "token expired")),
            Self::Deactivated => Some((4403, "device deactivated")),
            Self::Stalled | Self::Silent => Some((4408, "timed out")),
            Self::Replaced => Some((4409, "replaced by a newer connection")),
        }
    }
}
