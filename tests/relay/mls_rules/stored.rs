//! A state that an earlier build has stored: the format is frozen as long as its number is.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use restante::{
    domain::{CipherSuite, GroupId, MlsSignatureKey, Role},
    groups::mls::{CommitBundle, Sender, judge_commit},
};
use uuid::Uuid;

use super::{
    commits::{MEMBER, OWNER, three},
    device::Manner,
};

/// Group id, the committer's key, state, commit, `GroupInfo`, and the state after it; one in each line.
const STORED: &str = include_str!("state_format_1.txt");

#[test]
fn a_state_of_format_1_is_read_and_its_successor_is_written_as_ever() {
    let lines: Vec<Bytes> = STORED.lines().map(|line| STANDARD.decode(line).unwrap().into()).collect();
    let [group_id, key, state, commit, group_info, next] = <[Bytes; 6]>::try_from(lines).unwrap();
    // The devices of every group of three have the same names and leaves.
    let mut three = three(Manner::default());
    three.world.role(&three.devices[OWNER], Role::Owner);
    three.world.group_id = GroupId::new(Uuid::from_slice(&group_id).unwrap());
    three.world.epoch = restante::domain::Epoch(2);
    let scheme = CipherSuite::X25519Aes128.signature_scheme();
    let keys = [MlsSignatureKey { scheme, public_key: key, signature: [0; 64] }];
    let sender = Sender { caller: &three.devices[MEMBER].caller, keys: &keys, join_token: false };
    let bundle = CommitBundle { commit: &commit, group_info: &group_info, welcome: None };
    let judged = judge_commit(&three.world.at(), &state, &[], &sender, &bundle, &[]).unwrap();
    assert_eq!(judged.next.state.unwrap(), next);
}

#[test]
#[ignore = "writes the fixture of a new format"]
fn write_a_stored_state() {
    let mut three = three(Manner::default());
    let filling = three.update(OWNER);
    three.accept(OWNER, &filling);
    let sent = three.update(MEMBER);
    let judged = three.world.judge(&three.devices[MEMBER], &sent).unwrap();
    let group_id = three.world.group_id.uuid();
    let next = judged.next.state.unwrap();
    let lines: [&[u8]; 6] = [
        group_id.as_bytes(),
        &three.devices[MEMBER].keys[0].public_key,
        &three.world.state,
        &sent.commit,
        &sent.group_info,
        &next,
    ];
    let text: String = lines.iter().map(|line| STANDARD.encode(line) + "\n").collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(path.join("tests/relay/mls_rules/state_format_1.txt"), text).unwrap();
}
