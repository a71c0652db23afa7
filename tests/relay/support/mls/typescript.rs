//! ts-mls as a client, in a process of its own (tests/clients/mls).

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bundle, Change, Made, Manner, MlsClient, Received};
use crate::support::crypto::{b64, unb64};

/// Whether the client is installed: its folder and how node is called stand in `RESTANTE_TEST_TS_MLS` and
/// `RESTANTE_TEST_NODE` (`node` by default).
pub(crate) fn is_installed() -> bool {
    folder().is_some()
}

fn folder() -> Option<String> {
    std::env::var("RESTANTE_TEST_TS_MLS").ok().filter(|folder| !folder.is_empty())
}

/// A client for the device of this identity.
pub(crate) fn ts_mls(identity: &str, manner: Manner) -> Box<dyn MlsClient> {
    let node = std::env::var("RESTANTE_TEST_NODE").unwrap_or_else(|_| "node".to_owned());
    let mut words = node.split_whitespace();
    let mut process = Command::new(words.next().unwrap())
        .args(words)
        .arg("peer.mjs")
        .current_dir(folder().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut peer = Peer { process, stdin, stdout: BufReader::new(stdout) };
    peer.act(
        &json!({"act": "begin", "identity": identity, "suite": manner.suite, "private": manner.private}),
    );
    Box::new(Shared(std::cell::RefCell::new(peer)))
}

struct Peer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.stdin, "{request}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    fn act(&mut self, request: &Value) -> Value {
        self.ask(request).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Reading asks the process as well, and so needs it for itself alone.
struct Shared(std::cell::RefCell<Peer>);

impl Shared {
    fn act(&self, request: &Value) -> Value {
        self.0.borrow_mut().act(request)
    }

    fn ask_for(&self, act: &str) -> Value {
        self.act(&json!({ "act": act }))
    }
}

impl MlsClient for Shared {
    fn library(&self) -> &'static str {
        "ts-mls"
    }

    fn signature_key(&self) -> (u16, Vec<u8>) {
        let key = self.ask_for("signature_key");
        (u16::try_from(key["scheme"].as_u64().unwrap()).unwrap(), unb64(&key["public_key"]))
    }

    fn key_package(&mut self, last_resort: bool) -> Vec<u8> {
        unb64(&self.act(&json!({"act": "key_package", "last_resort": last_resort}))["key_package"])
    }

    fn create(&mut self, group: Uuid) -> Made {
        let made = self.act(&json!({"act": "create", "group": b64(group.as_bytes())}));
        Made { group_info: unb64(&made["group_info"]), tree: unb64(&made["tree"]) }
    }

    fn commit(&mut self, change: Change) -> Bundle {
        let made = self.act(&match change {
            Change::Update => json!({"act": "commit"}),
            Change::Add(packages) => {
                json!({"act": "commit", "add": packages.iter().map(b64).collect::<Vec<_>>()})
            }
            Change::Remove(leaves) => json!({"act": "commit", "remove": leaves}),
        });
        Bundle {
            commit: unb64(&made["commit"]),
            group_info: unb64(&made["group_info"]),
            welcome: made["welcome"].is_string().then(|| unb64(&made["welcome"])),
        }
    }

    fn accepted(&mut self) {
        self.ask_for("accepted");
    }

    fn refused(&mut self) {
        self.ask_for("refused");
    }

    fn join(&mut self, welcome: &[u8], tree: Option<&[u8]>) {
        self.act(&json!({"act": "join", "welcome": b64(welcome), "tree": tree.map(b64)}));
    }

    fn join_externally(&mut self, _: &[u8], _: &[u8], _: Option<u32>) -> Bundle {
        panic!("ts-mls 1.6 cannot read external_pub")
    }

    fn receive(&mut self, message: &[u8]) -> Result<Received, String> {
        let received = self.0.borrow_mut().ask(&json!({"act": "receive", "message": b64(message)}))?;
        Ok(if received["application"].is_string() {
            Received::Application(unb64(&received["application"]))
        } else if received["removed"] == true {
            Received::Removed
        } else if received["commit"] == true {
            Received::Commit
        } else {
            Received::Proposal
        })
    }

    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        unb64(&self.act(&json!({"act": "seal", "plaintext": b64(plaintext)}))["message"])
    }

    fn propose_leave(&mut self) -> Vec<u8> {
        unb64(&self.ask_for("propose_leave")["proposal"])
    }

    fn tree(&self) -> Vec<u8> {
        unb64(&self.ask_for("tree")["tree"])
    }

    fn epoch(&self) -> u64 {
        self.ask_for("epoch")["epoch"].as_u64().unwrap()
    }

    fn authenticator(&self) -> Vec<u8> {
        unb64(&self.ask_for("authenticator")["authenticator"])
    }

    fn leaf(&self) -> u32 {
        u32::try_from(self.ask_for("leaf")["leaf"].as_u64().unwrap()).unwrap()
    }

    fn members(&self) -> Vec<(u32, String)> {
        serde_json::from_value(self.ask_for("members")["members"].clone()).unwrap()
    }
}
