//! Keys that are read again, from files and over HTTP.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{super::*, Host, claims, refusal, settings};

/// An HTTP server that gives every request the same answer, until it is given another.
struct Server {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(status("503 Service Unavailable")));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (Arc::clone(&answer), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                while !lines.next().unwrap().unwrap().is_empty() {}
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = shared.lock().unwrap().clone();
                // A redirect leads to "/elsewhere", where the keys are.
                let moved = answer.split_once("\n\n").filter(|_| first.contains("/elsewhere"));
                let answer = moved.map_or(answer.as_str(), |(_, there)| there);
                // Who is told too much hangs up.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, answer, asked }
    }

    fn admissions(&self) -> Admissions {
        let url = format!("{}/jwks?secret=1", self.url);
        Admissions::new(&settings(AdmissionAlgorithm::EdDsa, None, Some(url))).unwrap().unwrap()
    }

    fn answer(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn status(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

fn body(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn jwks(host: &Host, name: &str) -> String {
    json!({ "keys": [host.jwk(name)] }).to_string()
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

#[test]
fn keys_rotate_when_the_set_is_read_again() {
    let server = Server::start();
    let admissions = server.admissions();
    let (old, new) = (Host::new(AdmissionAlgorithm::EdDsa), Host::new(AdmissionAlgorithm::EdDsa));
    let (old_token, new_token) = (old.named("old", &claims()), new.named("new", &claims()));
    admissions.refresh();
    assert_eq!(refusal(&admissions, &old_token), Some(AdmissionRefusal::KeysUnavailable));
    server.answer(body(&jwks(&old, "old")));
    admissions.refresh();
    assert_eq!(refusal(&admissions, &old_token), None);
    assert_eq!(refusal(&admissions, &new_token), Some(AdmissionRefusal::Invalid));
    server.answer(body(&json!({ "keys": [old.jwk("old"), new.jwk("new")] }).to_string()));
    admissions.refresh();
    assert_eq!((refusal(&admissions, &old_token), refusal(&admissions, &new_token)), (None, None));
    server.answer(body(&jwks(&new, "new")));
    admissions.refresh();
    assert_eq!(refusal(&admissions, &old_token), Some(AdmissionRefusal::Invalid));
    server.answer(body(r#"{"keys":[]}"#));
    admissions.refresh();
    assert_eq!(refusal(&admissions, &new_token), Some(AdmissionRefusal::KeysUnavailable), "all withdrawn");
}

#[test]
fn the_last_good_keys_stay_when_reading_fails() {
    let server = Server::start();
    let admissions = server.admissions();
    let (host, other) = (Host::new(AdmissionAlgorithm::EdDsa), Host::new(AdmissionAlgorithm::EdDsa));
    server.answer(body(&jwks(&host, "one")));
    admissions.refresh();
    let other_keys = jwks(&other, "one");
    let huge = format!("{}{}", " ".repeat(1 << 20), other_keys);
    let unending = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n200000\r\n{}\r\n0\r\n\r\n",
        " ".repeat(0x20_0000)
    );
    // Without a body to come, so that following it would find the other keys.
    let there = body(&other_keys);
    for (case, bad) in [
        ("no content", body("")),
        ("not JSON", body("<html>")),
        ("no set", body("[]")),
        ("keys of another kind", body(r#"{"keys":{}}"#)),
        ("an error", status("500 Internal Server Error")),
        ("not found", status("404 Not Found")),
        ("a huge body", body(&huge)),
        ("a huge body in chunks", unending),
        ("a cut body", body(&other_keys).replace("content-length: ", "content-length: 9")),
        ("no HTTP", "hello\r\n\r\n".to_owned()),
        ("a redirect in a circle", redirect("/")),
        ("a redirect to another scheme", redirect("https://127.0.0.1:1/") + "\n\n" + &there),
        ("a redirect to a file", redirect("file:///etc/passwd")),
        ("a redirect to another machine", redirect("http://example.invalid/")),
        ("a redirect to nowhere", redirect("jwks.json") + "\n\n" + &there),
    ] {
        server.answer(bad);
        admissions.refresh();
        assert_eq!(refusal(&admissions, &host.named("one", &claims())), None, "{case}");
    }
    server.answer(redirect("/elsewhere") + "\n\n" + &there);
    admissions.refresh();
    assert_eq!(refusal(&admissions, &other.named("one", &claims())), None, "a redirect on the server");
}

#[test]
fn redirects_are_followed_three_times() {
    let server = Server::start();
    server.answer(redirect("/again"));
    server.admissions().refresh();
    assert_eq!(server.asked.load(Ordering::SeqCst), 4);
}

#[test]
fn a_file_is_read_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (old, new) = (Host::new(AdmissionAlgorithm::EdDsa), Host::new(AdmissionAlgorithm::EdDsa));
    std::fs::write(file.path(), jwks(&old, "one")).unwrap();
    let path = file.path().display().to_string();
    let admissions = Admissions::new(&settings(AdmissionAlgorithm::EdDsa, None, Some(path)));
    let admissions = admissions.unwrap().unwrap();
    for bad in ["", "{"] {
        std::fs::write(file.path(), bad).unwrap();
        admissions.refresh();
        assert_eq!(refusal(&admissions, &old.token(&claims())), None);
    }
    std::fs::write(file.path(), jwks(&new, "one")).unwrap();
    admissions.refresh();
    assert_eq!(refusal(&admissions, &old.token(&claims())), Some(AdmissionRefusal::Invalid));
    assert_eq!(refusal(&admissions, &new.token(&claims())), None);
    drop(file);
    admissions.refresh();
    assert_eq!(refusal(&admissions, &new.token(&claims())), None);
}

#[tokio::test]
async fn keys_are_followed_until_stopped_and_unknown_names_do_not_make_the_server_busy() {
    let server = Server::start();
    let host = Host::new(AdmissionAlgorithm::EdDsa);
    server.answer(body(&jwks(&host, "one")));
    let (admissions, stop) = (Arc::new(server.admissions()), CancellationToken::new());
    let following = tokio::spawn(Arc::clone(&admissions).follow(stop.clone()));
    while refusal(&admissions, &host.named("one", &claims())).is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..100 {
        let unknown = refusal(&admissions, &host.named("two", &claims()));
        assert_eq!(unknown, Some(AdmissionRefusal::Invalid));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), following).await.unwrap().unwrap();
}
