use std::collections::BTreeMap;

use actix_web::test::TestRequest;
use proptest::prelude::*;

use super::*;

const X: ForwardedHeader = ForwardedHeader::XForwardedFor;
const F: ForwardedHeader = ForwardedHeader::Forwarded;

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Trusted: the proxies 10.0.0.0/8 and `2001:db8:aa::/48`.
fn walked(peer: &str, values: &[&str], header: ForwardedHeader) -> String {
    let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
    let trusted = networks(&["10.0.0.0/8", "2001:db8:aa::/48"]);
    walk(peer.parse().unwrap(), &values, &trusted, header).to_string()
}

#[test]
fn without_a_trusted_proxy_the_peer_is_the_caller() {
    for header in [X, F] {
        for values in [&[][..], &["1.2.3.4"], &["for=1.2.3.4"], &["10.0.0.1"]] {
            assert_eq!(walked("192.0.2.1", values, header), "192.0.2.1");
        }
    }
}

#[test]
fn x_forwarded_for_is_read_from_the_right_up_to_the_first_untrusted_address() {
    for (values, expected) in [
        (&[][..], "10.0.0.1"),
        (&[""], "10.0.0.1"),
        (&["192.0.2.7"], "192.0.2.7"),
        (&[" 192.0.2.7\t"], "192.0.2.7"),
        (&["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (&["6.6.6.6,192.0.2.7 , 10.9.9.9,10.0.0.2"], "192.0.2.7"),
        (&["6.6.6.6", "192.0.2.7, 10.0.0.2", "10.0.0.3"], "192.0.2.7"),
        (&["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        (&["\"6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        (&["10.0.0.5, 10.0.0.4"], "10.0.0.5"),
        (&["6.6.6.6, unknown, 10.0.0.4"], "10.0.0.4"),
        (&["6.6.6.6, , 10.0.0.4"], "10.0.0.4"),
        (&["6.6.6.6,"], "10.0.0.1"),
        (&["6.6.6.6", ""], "10.0.0.1"),
        (&["6.6.6.6, nonsense"], "10.0.0.1"),
        (&["192.0.2.7:443"], "192.0.2.7"),
        (&["192.0.2.7:"], "10.0.0.1"),
        (&["192.0.2.7:123456"], "10.0.0.1"),
        (&["192.0.2"], "10.0.0.1"),
        (&["2001:db8::7"], "2001:db8::7"),
        (&["[2001:db8::7]"], "2001:db8::7"),
        (&["[2001:db8::7]:80"], "2001:db8::7"),
        (&["[2001:db8::7]80"], "10.0.0.1"),
        (&["[2001:db8::7"], "10.0.0.1"),
        (&["192.0.2.7, 2001:db8:aa::1"], "192.0.2.7"),
        (&["6.6.6.6, 192.0.2.7, ::ffff:10.1.2.3"], "192.0.2.7"),
        (&["::ffff:192.0.2.7"], "192.0.2.7"),
        (&["for=192.0.2.7"], "10.0.0.1"),
    ] {
        assert_eq!(walked("10.0.0.1", values, X), expected, "{values:?}");
        assert_eq!(walked("::ffff:10.0.0.1", values, X), expected, "{values:?}, the peer mapped");
    }
}

#[test]
fn forwarded_is_read_from_the_right_up_to_the_first_untrusted_address() {
    for (values, expected) in [
        (&[][..], "10.0.0.1"),
        (&[""], "10.0.0.1"),
        (&["for=192.0.2.7"], "192.0.2.7"),
        (&["For = \"192.0.2.7:80\" ; proto=https"], "192.0.2.7"),
        (&["proto=http;by=10.0.0.1;FOR=192.0.2.7"], "192.0.2.7"),
        (&["for=\"[2001:db8::1]:1234\""], "2001:db8::1"),
        (&["for=\"[2001:db8::1]:_port\""], "2001:db8::1"),
        (&["for=\"[2001:\\db8::1]\""], "2001:db8::1"),
        (&["for=\"[::ffff:192.0.2.7]\""], "192.0.2.7"),
        (&["for=6.6.6.6, for=192.0.2.7, for=10.0.0.2"], "192.0.2.7"),
        (&["for=6.6.6.6", "for=192.0.2.7", "for=\"[2001:db8:aa::2]\""], "192.0.2.7"),
        (&["for=6.6.6.6, for=unknown"], "10.0.0.1"),
        (&["for=6.6.6.6, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        (&["for=6.6.6.6, proto=https"], "10.0.0.1"),
        (&["for=6.6.6.6, garbage"], "10.0.0.1"),
        (&["for=6.6.6.6;for=192.0.2.7"], "10.0.0.1"),
        (&["for=6.6.6.6,"], "10.0.0.1"),
        (&["for=\"192.0.2.7"], "10.0.0.1"),
        (&["for=192.0.2.7\""], "10.0.0.1"),
        (&["for=10.0.0.9, for=10.0.0.8"], "10.0.0.9"),
        (&["192.0.2.7"], "10.0.0.1"),
        // A quote that the caller opened does not swallow what the proxy added.
        (&["for=\"6.6.6.6, for=192.0.2.7"], "192.0.2.7"),
        (&["for=\"\\", "for=192.0.2.7"], "192.0.2.7"),
        (&["for=\"", "for=192.0.2.7;host=\"a\""], "192.0.2.7"),
        // What a proxy quotes of the caller's words stays quoted.
        (&["for=192.0.2.7;host=\"x,for=6.6.6.6\""], "192.0.2.7"),
        (&["for=192.0.2.7;host=\"x\\\",for=6.6.6.6;y=\\\"\""], "192.0.2.7"),
        (&["for=192.0.2.7;host=\"x;for=6.6.6.6\""], "192.0.2.7"),
    ] {
        assert_eq!(walked("10.0.0.1", values, F), expected, "{values:?}");
    }
}

#[test]
fn networks_of_mapped_addresses_are_networks_of_ipv4() {
    let values: [&[u8]; 1] = [b"6.6.6.6, 10.0.0.2"];
    for (trusted, expected) in [
        (&["::ffff:10.0.0.0/104"][..], "6.6.6.6"),
        (&["::ffff:10.0.0.1/128"], "10.0.0.2"),
        (&["10.0.0.1/32"], "10.0.0.2"),
        (&["0.0.0.0/0"], "6.6.6.6"),
        (&["::/0"], "10.0.0.1"),
        (&[], "10.0.0.1"),
    ] {
        let found = walk("10.0.0.1".parse().unwrap(), &values, &networks(trusted), X);
        assert_eq!(found.to_string(), expected, "{trusted:?}");
    }
}

fn config(vars: &[(&str, &str)]) -> web::Data<Config> {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    web::Data::new(Config::from_vars(&BTreeMap::new(), &vars).unwrap())
}

fn extracted(config: &web::Data<Config>, peer: Option<&str>) -> Option<CallerAddress> {
    let mut request = TestRequest::default()
        .app_data(config.clone())
        .append_header(("X-Forwarded-For", "6.6.6.6"))
        .append_header(("Forwarded", "for=8.8.8.8"))
        .append_header(("X-Forwarded-For", "192.0.2.7"));
    if let Some(peer) = peer {
        request = request.peer_addr(peer.parse().unwrap());
    }
    CallerAddress::of(&request.to_http_request())
}

fn address(text: &str) -> CallerAddress {
    CallerAddress::from(text.parse::<IpAddr>().unwrap())
}

#[test]
fn only_the_configured_header_of_a_trusted_proxy_is_believed() {
    let untrusting = config(&[]);
    let x = config(&[("TRUSTED_PROXIES", "10.0.0.0/8")]);
    let forwarded = config(&[("TRUSTED_PROXIES", "10.0.0.1"), ("TRUSTED_PROXY_HEADER", "forwarded")]);
    for (config, peer, expected) in [
        (&untrusting, "10.0.0.1:9", "10.0.0.1"),
        (&x, "10.0.0.1:9", "192.0.2.7"),
        (&x, "[::ffff:10.0.0.1]:9", "192.0.2.7"),
        (&x, "11.0.0.1:9", "11.0.0.1"),
        (&forwarded, "10.0.0.1:9", "8.8.8.8"),
        (&forwarded, "10.0.0.2:9", "10.0.0.2"),
    ] {
        assert!(extracted(config, Some(peer)).unwrap() == address(expected), "{peer}: {expected}");
    }
    assert!(extracted(&x, None).is_none());
}

#[test]
fn an_address_is_counted_by_its_network_and_never_shown() {
    let network = |text| address(text).network();
    assert_eq!(network("192.0.2.7").0, [4, 192, 0, 2, 7, 0, 0, 0, 0]);
    assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
    assert_eq!(network("2001:db8:1:2:3::4").0, [6, 0x20, 1, 0x0d, 0xb8, 0, 1, 0, 2]);
    assert_eq!(network("2001:db8:1:2::"), network("2001:db8:1:2:ffff::1"));
    assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
    assert_eq!(format!("{:?}", address("192.0.2.7")), "CallerAddress(..)");
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

/// Bytes of which many mean something in these headers.
fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let telling = prop::sample::select(b"for=\",;\\[]:. 0123456789_af".to_vec());
    let byte = prop_oneof![4 => telling, 1 => any::<u8>()];
    prop::collection::vec(prop::collection::vec(byte, 0..60), 0..4)
}

fn headers() -> impl Strategy<Value = ForwardedHeader> {
    prop::sample::select(vec![X, F])
}

proptest! {
    #[test]
    fn what_an_untrusted_peer_sends_changes_nothing(peer in addresses(), lines in lines(), header in headers()) {
        let values: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        let trusted = networks(&["10.0.0.0/8", "fd00::/8"]);
        prop_assume!(!is_within(peer.to_canonical(), &trusted));
        prop_assert_eq!(walk(peer, &values, &trusted, header), peer.to_canonical());
    }

    /// A trusted proxy adds what it saw as a line of its own, or to the last line.
    #[test]
    fn whatever_a_caller_sends_its_proxys_word_counts(
        caller in addresses(), lines in lines(), header in headers(), same_line in any::<bool>(),
    ) {
        let trusted = networks(&["10.0.0.0/8"]);
        prop_assume!(!is_within(caller.to_canonical(), &trusted));
        let seen = match (header, caller) {
            (ForwardedHeader::XForwardedFor, _) => caller.to_string(),
            (ForwardedHeader::Forwarded, IpAddr::V4(_)) => format!("for={caller}"),
            (ForwardedHeader::Forwarded, IpAddr::V6(_)) => format!("for=\"[{caller}]:80\""),
        };
        let mut lines = lines;
        match lines.last_mut().filter(|_| same_line) {
            Some(last) => last.extend_from_slice(format!(", {seen}").as_bytes()),
            None => lines.push(seen.into_bytes()),
        }
        let values: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        let peer = "10.0.0.1".parse().unwrap();
        prop_assert_eq!(walk(peer, &values, &trusted, header), caller.to_canonical());
    }

    #[test]
    fn any_bytes_are_walked_without_a_panic(lines in lines(), header in headers()) {
        let values: Vec<_> = lines.iter().map(Vec::as_slice).collect();
        let trusted = networks(&["0.0.0.0/0", "::/0"]);
        walk("10.0.0.1".parse().unwrap(), &values, &trusted, header);
    }
}
