//! Bodies and forwarded addresses for fuzzers; see [`crate::fuzzed`].

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Problem, RequestBody, address::walk, body::parse};
use crate::config::ForwardedHeader;

/// The longest body of a refusal, whatever was refused.
const LONGEST_REFUSAL: usize = 8 << 10;

/// A body, when it is taken.
pub(crate) fn parsed<T: RequestBody>(bytes: &[u8]) -> Option<T> {
    taken(parse(bytes))
}

/// What was taken; what was refused is held against what is promised of refusals.
pub(crate) fn taken<T>(outcome: Result<T, impl Into<Problem>>) -> Option<T> {
    outcome.map_err(|refusal| check_refusal(&refusal.into())).ok()
}

/// A refusal is the client's fault, and short, however long the input was.
pub(crate) fn check_refusal(problem: &Problem) {
    let body = problem.body("0123456789abcdef0123456789abcdef");
    let status = body.get("status").and_then(serde_json::Value::as_u64);
    assert!(status.is_some_and(|status| (400..500).contains(&status)), "{body}");
    let length = body.to_string().len();
    assert!(length <= LONGEST_REFUSAL, "a refusal of {length} bytes");
}

/// The lines of a header that names the caller. Taken when they name somebody else than the peer.
pub fn forwarded(data: &[u8]) -> bool {
    let headers = [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded];
    headers.map(|header| walked(data, header)).contains(&true)
}

fn walked(data: &[u8], header: ForwardedHeader) -> bool {
    let proxy = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let caller = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    let trusted = [IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8))];
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    assert_eq!(walk(stranger, &lines, &trusted, header), stranger, "whom nobody trusts speaks for itself");
    let entry: &[u8] = match header {
        ForwardedHeader::XForwardedFor => b"203.0.113.7",
        ForwardedHeader::Forwarded => b"for=203.0.113.7",
    };
    let appended = [data, b", ", entry].concat();
    assert_eq!(walk(proxy, &[&appended], &trusted, header), caller, "the proxy's own word counts");
    let further: Vec<&[u8]> = lines.iter().copied().chain([entry]).collect();
    assert_eq!(walk(proxy, &further, &trusted, header), caller, "in a line of its own, too");
    walk(proxy, &lines, &trusted, header) != proxy
}
