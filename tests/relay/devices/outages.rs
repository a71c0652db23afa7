//! What callers hear while the store cannot be asked who was revoked.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::{
    devices::phone_and_tablet,
    support::{
        client::Device,
        faults::{Line, Proxy, authority, eventually, moved},
        login::{self, at, log_in, log_out},
        relay::Backend,
    },
};

/// A call that needs a caller and asks the store nothing.
async fn call(device: &Device) -> u16 {
    device.call(Method::POST, "/api/v1/auth/ticket", None).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_ask_who_was_revoked_takes_no_token_and_catches_up_first() {
    let Some(backend) = Backend::production().await else { return };
    let database = backend.database().unwrap().url();
    let proxy = Proxy::to(&authority(&database)).await;
    for line in [Line::Cut, Line::Swallows] {
        // Without Redis, which could tell it as well.
        let whole = backend.relay(&[("REDIS_URL", "")]).await;
        let away = [("DATABASE_URL", &*moved(&database, proxy.address)), ("REDIS_URL", "")];
        let away = backend.relay(&away).await;
        let (phone, tablet) = phone_and_tablet(&whole.url()).await;
        let second = log_in(&phone).await;
        let (here, ended, deactivated) =
            (at(&away.url(), &phone), at(&away.url(), &second), at(&away.url(), &tablet));
        assert_eq!(call(&ended).await, 201);
        proxy.turn(line);
        let since = Instant::now();
        eventually("a token is refused", Duration::from_secs(6), async || call(&here).await == 503).await;
        assert!(since.elapsed() > Duration::from_secs(1), "{line:?}: one lost poll is no outage");
        let refused = login::ask_ticket(&here).await;
        refused.clone().refused(503, "store-unavailable");
        assert!(refused.header("retry-after").parse::<u32>().is_ok());
        log_out(&second).await.is(204);
        phone.deactivate(&tablet).await.is(200);
        // What is no token at all is refused all the same.
        let none = here.anonymous(Method::POST, "/api/v1/auth/ticket", None).await;
        none.refused(401, "no-token");
        proxy.renew();
        if line == Line::Swallows {
            proxy.turn(Line::Cut);
            proxy.turn(Line::Open);
        }
        eventually("the dead token is known as dead", Duration::from_secs(20), async || {
            let (one, other) = (call(&ended).await, call(&deactivated).await);
            assert!(matches!(one, 401 | 503) && matches!(other, 401 | 503), "{line:?}: {one} {other}");
            one == 401 && other == 401
        })
        .await;
        eventually("the others go on", Duration::from_secs(5), async || call(&here).await == 201).await;
        away.stop().await;
        whole.stop().await;
    }
    backend.finish().await;
}
