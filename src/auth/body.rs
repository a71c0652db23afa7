//! Logins on the wire: request bodies and answers.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    domain::{AuditEntry, SecurityEvent},
    http::{Act, RequestBody},
    store::Session,
    wire::{B64, Id, Time},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChallengeBody {
    pub(super) user_id: Id,
    #[schema(example = "phone")]
    pub(super) device_id: String,
}

impl RequestBody for ChallengeBody {
    const ACT: Option<Act> = Some(Act::Login);
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChallengeAnswer {
    /// Opaque; a part of the login statement as it stands here.
    pub(super) challenge: String,
    pub(super) expires_at: Time,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    pub(super) user_id: Id,
    pub(super) device_id: String,
    pub(super) challenge: String,
    /// The identity key's signature over the login statement.
    pub(super) signature: B64,
}

impl RequestBody for TokenBody {
    const ACT: Option<Act> = Some(Act::Login);
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshBody {
    pub(super) refresh_token: String,
}

impl RequestBody for RefreshBody {
    const ACT: Option<Act> = Some(Act::Refresh);
}

/// The tokens of a session.
#[derive(Serialize, ToSchema)]
pub struct TokenAnswer {
    #[schema(example = "Bearer")]
    pub(super) token_type: &'static str,
    pub(super) access_token: String,
    /// Seconds.
    pub(super) expires_in: u64,
    pub(super) refresh_token: String,
    /// Seconds.
    pub(super) refresh_expires_in: u64,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenAnswer(..)")
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct TicketAnswer {
    /// Opens one socket, by the subprotocol `ticket.<ticket>`, for 30 s but not longer than the access token lives.
    pub(super) ticket: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionAnswer {
    pub(super) session_id: Id,
    pub(super) device_id: String,
    /// 1–127.
    pub(super) device_number: u8,
    pub(super) created_at: Time,
    /// By the day.
    pub(super) last_used: Time,
    pub(super) expires_at: Time,
    /// Whether the calling token is this session's.
    pub(super) current: bool,
}

impl SessionAnswer {
    pub(super) fn of(session: &Session, current: bool) -> Self {
        Self {
            session_id: Id(session.session_id.uuid()),
            device_id: session.device_id.as_str().to_owned(),
            device_number: session.device_number.get(),
            created_at: Time(session.created_at),
            last_used: Time(session.last_used),
            expires_at: Time(session.expires_at),
            current,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionsAnswer {
    /// Oldest first.
    pub(super) sessions: Vec<SessionAnswer>,
    pub(super) count: usize,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// 1–100, default 50.
    pub(super) limit: Option<u32>,
    /// `next_before` of the page before.
    pub(super) before: Option<i64>,
}

/// What happened.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuditEvent {
    DeviceAdded,
    DeviceDeactivated,
    KeyRotated,
    TokenReused,
    LinkIssued,
    AdmissionRefused,
    LimitTripped,
    LoggedIn,
    LoggedOut,
}

impl From<SecurityEvent> for AuditEvent {
    fn from(event: SecurityEvent) -> Self {
        match event {
            SecurityEvent::DeviceAdded => Self::DeviceAdded,
            SecurityEvent::DeviceDeactivated => Self::DeviceDeactivated,
            SecurityEvent::KeyRotated => Self::KeyRotated,
            SecurityEvent::TokenReused => Self::TokenReused,
            SecurityEvent::LinkIssued => Self::LinkIssued,
            SecurityEvent::AdmissionRefused => Self::AdmissionRefused,
            SecurityEvent::LimitTripped => Self::LimitTripped,
            SecurityEvent::LoggedIn => Self::LoggedIn,
            SecurityEvent::LoggedOut => Self::LoggedOut,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditItem {
    pub(super) event: AuditEvent,
    pub(super) at: Time,
    /// The device it happened to, if it was one; 1–127.
    pub(super) device_number: Option<u8>,
    /// The device that did it, where that is another; 1–127.
    pub(super) by_device_number: Option<u8>,
}

impl From<&AuditEntry> for AuditItem {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            event: entry.event.into(),
            at: Time(entry.at),
            device_number: entry.device_number.map(crate::domain::DeviceNumber::get),
            by_device_number: entry.by.map(crate::domain::DeviceNumber::get),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditAnswer {
    /// Newest first; kept for 90 days.
    pub(super) events: Vec<AuditItem>,
    pub(super) count: usize,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_before: Option<i64>,
}
