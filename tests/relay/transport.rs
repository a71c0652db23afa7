//! The promises about connections (proto-docs/transport.md).

mod files;
mod gone;
mod headers;
mod hostile;
mod http2;
mod sockets;
mod tls;
mod unread;

use crate::support::{
    client::{Device, Kind},
    relay::{Backend, Settings, TestRelay},
};

/// A relay with these settings, and a device that was registered before it spoke TLS.
async fn with_device(backend: &Backend, settings: Settings<'_>) -> (TestRelay, Device) {
    let plain = backend.relay(&[]).await;
    let device = Device::registered(&plain, Kind::Ed25519).await;
    plain.stop().await;
    (backend.relay(settings).await, device)
}

/// Settings of which some were worked out.
fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}
