use std::sync::Weak;

use tokio::{io::duplex, time::sleep};

use super::*;

struct Owned(#[expect(dead_code, reason = "held for its drop")] std::sync::Arc<()>, Vec<u8>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

/// An answer of a slice, and whether anybody has any of it.
fn answer() -> (Bytes, Weak<()>) {
    let whole = std::sync::Arc::new(());
    let seen = std::sync::Arc::downgrade(&whole);
    (Bytes::from_owner(Owned(whole, vec![7; SLICE])), seen)
}

#[tokio::test]
async fn what_waits_for_a_connection_keeps_nothing_of_the_answer_it_came_from() {
    let pace = Pace { stall: Duration::from_mins(1), least: 4 << 10 };
    let terms = Terms { pace, held_up: Rc::default() };
    let (ours, theirs) = duplex(1 << 10);
    let (body, seen) = answer();
    let serving = async {
        let mut connection: Connection<_, Bytes> = builder().handshake(ours).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let stream = respond.send_response(http::Response::new(()), false).unwrap();
        let mut given = pin!(give(stream, BoxBody::new(body), &terms));
        tokio::select! {
            () = &mut given => {}
            ended = poll_fn(|cx| connection.poll_closed(cx)) => panic!("{ended:?}"),
        }
        // As much as the connection has room for is written; the rest waits.
        let written = timeout(Duration::from_millis(200), poll_fn(|cx| connection.poll_closed(cx))).await;
        assert!(written.is_err(), "it is open");
        connection
    };
    let asking = async {
        let (mut sender, mut connection) = h2::client::handshake(theirs).await.unwrap();
        let (answer, _) = sender.send_request(http::Request::new(()), true).unwrap();
        tokio::select! {
            _ = &mut connection => panic!("it is open"),
            answer = answer => drop(answer.unwrap().into_body()),
        }
        (sender, connection)
    };
    let (_ours, _theirs) = tokio::join!(serving, asking);
    assert!(seen.upgrade().is_none(), "a slice keeps the whole answer");
}

#[tokio::test]
async fn an_answer_waits_with_its_connection_longer_than_a_stall() {
    let pace = Pace { stall: Duration::from_millis(100), least: 8 << 10 };
    let (ours, theirs) = duplex(1 << 10);
    let ours = Paced::new(ours, pace);
    let terms = Terms { pace, held_up: Rc::clone(ours.held_up()) };
    let serving = async {
        let mut connection: Connection<_, Bytes> = builder().handshake(ours).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let stream = respond.send_response(http::Response::new(()), false).unwrap();
        tokio::join!(give(stream, BoxBody::new(vec![7; 3 * SLICE]), &terms), async {
            poll_fn(|cx| connection.poll_closed(cx)).await.ok()
        });
    };
    let asking = async {
        let (mut sender, mut connection) = h2::client::handshake(theirs).await.unwrap();
        let (answer, _) = sender.send_request(http::Request::new(()), true).unwrap();
        let mut body = tokio::select! {
            _ = &mut connection => panic!("it is open"),
            answer = answer => answer.unwrap().into_body(),
        };
        sleep(5 * pace.stall).await;
        let taking = async {
            let mut length = 0;
            while let Some(chunk) = body.data().await {
                length += chunk.map_err(|error| error.to_string())?.len();
            }
            Ok::<_, String>(length)
        };
        tokio::select! {
            _ = &mut connection => panic!("it is open"),
            taken = taking => taken,
        }
    };
    let taken = tokio::select! {
        () = serving => panic!("it is open"),
        taken = asking => taken,
    };
    assert_eq!(taken, Ok(3 * SLICE));
}
