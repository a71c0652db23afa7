//! Whose address a request comes from, whoever passed it on.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use actix_web::{HttpRequest, http::header::HeaderValue, web};
use ipnet::IpNet;

use crate::{
    config::{Config, ForwardedHeader, is_within},
    domain::Network,
};

/// The address of a caller: the peer's, or what trusted proxies say it is. For counting only; never shown or logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CallerAddress(IpAddr);

impl CallerAddress {
    /// The address that a request comes from. None when the connection has no address, or the relay no settings.
    #[must_use]
    pub fn of(request: &HttpRequest) -> Option<Self> {
        let proxies = &request.app_data::<web::Data<Config>>()?.proxies;
        let peer = request.peer_addr()?.ip();
        let lines = request.headers().get_all(name(proxies.header)).map(HeaderValue::as_bytes);
        Some(Self(walk(peer, &lines.collect::<Vec<_>>(), &proxies.trusted, proxies.header)))
    }

    /// What is counted.
    #[must_use]
    pub fn network(&self) -> Network {
        Network::of(self.0)
    }
}

impl From<IpAddr> for CallerAddress {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl fmt::Debug for CallerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerAddress(..)")
    }
}

const fn name(header: ForwardedHeader) -> &'static str {
    match header {
        ForwardedHeader::XForwardedFor => "x-forwarded-for",
        ForwardedHeader::Forwarded => "forwarded",
    }
}

/// The address of the nearest hop that is not trusted. `values` are the header's lines in order.
///
/// Each hop was named by the one after it, so the walk goes from the right and ends where trust does; what stands further
/// left was written by just anybody, and is not even parsed. A hop that is named by no address (`unknown`, `_hidden`, an
/// empty entry) ends the walk at the trusted hop that could not name it.
pub(super) fn walk(peer: IpAddr, values: &[&[u8]], trusted: &[IpNet], header: ForwardedHeader) -> IpAddr {
    let mut nearest = peer.to_canonical();
    let joined = values.join(&b',');
    let mut left = (!values.is_empty()).then_some(&*joined);
    while is_within(nearest, trusted)
        && let Some(list) = left
    {
        let (before, address) = match header {
            ForwardedHeader::XForwardedFor => {
                let (before, entry) = split_last(list, b',', Quotes::Plain);
                (before, node(entry))
            }
            ForwardedHeader::Forwarded => {
                let (before, entry) = split_last(list, b',', Quotes::Hold);
                (before, element(entry))
            }
        };
        let Some(address) = address else { break };
        nearest = address.to_canonical();
        left = before;
    }
    nearest
}

/// Whether quotes hold what stands between them together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Plain,
    Hold,
}

/// What stands behind the last separator, and what before it. Reads from the right, so that a quote that somebody opened
/// further left, and never closed, swallows nothing.
fn split_last(list: &[u8], separator: u8, quotes: Quotes) -> (Option<&[u8]>, &[u8]) {
    let mut is_quoted = false;
    for (at, byte) in list.iter().enumerate().rev() {
        if *byte == b'"' && quotes == Quotes::Hold && !is_escaped(&list[..at]) {
            is_quoted = !is_quoted;
        }
        if *byte == separator && !is_quoted {
            return (Some(&list[..at]), &list[at + 1..]);
        }
    }
    (None, list)
}

/// Whether what follows these bytes is escaped by them.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address in a forwarded-element (RFC 7239, section 4), which has at most one `for`.
fn element(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut left = Some(element);
    while let Some(pairs) = left {
        let (before, pair) = split_last(pairs, b';', Quotes::Hold);
        left = before;
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            found = Some(node(&unquoted(value)?)?);
        }
    }
    found
}

/// A token, or what a quoted string says.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(value) = value.strip_prefix(b"\"") else { return Some(value.to_vec()) };
    let mut bytes = value.strip_suffix(b"\"")?.iter();
    let mut text = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        text.push(if *byte == b'\\' { *bytes.next()? } else { *byte });
    }
    Some(text)
}

/// The address of a node: with a port or without, an IPv6 address in brackets or, where nothing follows it, without.
fn node(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_ascii();
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().ok().filter(|_| is_whole).map(IpAddr::V6);
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (address, port) = text.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port)).map(IpAddr::V4)
}

/// A port, perhaps an obfuscated one.
fn is_port(text: &str) -> bool {
    let hidden = text.strip_prefix('_');
    let is_hidden = hidden.is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    });
    is_hidden || (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
