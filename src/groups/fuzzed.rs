//! The bodies of the group routes for fuzzers; see [`crate::fuzzed`].

use std::time::Duration;

use uuid::Uuid;

use super::{
    CommitRequest, FoundingRequest, GroupRules, GroupSendBody,
    body::{
        CommitBody, CreateBody, DescribeBody, InviteBody, MembersBody, ProposalBody, RemovalBody, ReportBody,
        RoleBody,
    },
    requests::Adding,
    send::prepare,
};
use crate::{
    domain::{GroupId, SEALED_MIN},
    fuzzed::{NOW, caller, user},
    http::fuzzed::{parsed, taken},
};

/// Every body of the group routes, each of which the input may be. Taken when one of them is.
pub fn group_body(data: &[u8]) -> bool {
    let outcomes = [
        parsed::<CreateBody>(data).and_then(|body| taken(FoundingRequest::try_from(body))).is_some(),
        parsed::<MembersBody>(data).and_then(|body| taken(Adding::try_from(body))).is_some(),
        parsed::<RemovalBody>(data).and_then(|body| taken(body.removing(user(2)))).is_some(),
        parsed::<CommitBody>(data).and_then(|body| taken(CommitRequest::try_from(body))).is_some(),
        parsed::<ProposalBody>(data).is_some(),
        parsed::<GroupSendBody>(data).is_some_and(sent),
        parsed::<DescribeBody>(data).and_then(|body| taken(body.check())).is_some(),
        parsed::<RoleBody>(data).is_some(),
        parsed::<InviteBody>(data).is_some(),
        parsed::<ReportBody>(data).and_then(|body| taken(body.parsed())).is_some(),
    ];
    outcomes.contains(&true)
}

fn sent(body: GroupSendBody) -> bool {
    let rules = GroupRules {
        envelope: 96 << 10,
        plaintext_guard: true,
        max_members: 1500,
        max_groups: 2000,
        invite_life: Duration::from_hours(24),
        cipher_suites: Vec::new(),
        longest_lifetime: Duration::from_hours(24),
    };
    let Some(request) = taken(body.request(GroupId::new(Uuid::from_u128(7)))) else { return false };
    let Some(send) = taken(prepare(caller(1, "phone"), request, &rules, NOW)) else { return false };
    assert!((SEALED_MIN..=rules.envelope).contains(&send.body.len()));
    assert!(send.expires_at.is_none_or(|end| end > NOW));
    true
}
