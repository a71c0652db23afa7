use std::future::poll_fn;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::spawn_local,
    time::timeout,
};

use super::*;

const PACE: Pace = Pace { stall: Duration::from_mins(1), least: 4 << 10 };

const LONG: Duration = Duration::from_mins(1);

/// A line and its peer.
async fn pair() -> (Line, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    (Line::new(Stream::Plain(ours), Patience { begun: LONG, idle: LONG }), peer)
}

/// Writes until the peer must take something first.
async fn filled(line: &mut Line) {
    while timeout(Duration::from_millis(200), line.write(&[0; 16 << 10])).await.is_ok() {}
}

/// Reads and writes as the library does, until something was read; its length.
async fn served(line: &mut Line) -> usize {
    let mut bytes = [0; 1024];
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut bytes);
        if let Poll::Ready(read) = Pin::new(&mut *line).poll_read(cx, &mut buffer) {
            read.unwrap();
            return Poll::Ready(buffer.filled().len());
        }
        while let Poll::Ready(written) = Pin::new(&mut *line).poll_write(cx, &[0]) {
            written.unwrap();
            if Pin::new(&mut *line).poll_flush(cx).is_ready() {
                break;
            }
        }
        Poll::Pending
    })
    .await
}

#[tokio::test]
async fn who_does_not_take_answers_is_not_read_until_it_does_but_a_socket_is() {
    let (mut line, mut peer) = pair().await;
    filled(&mut line).await;
    peer.write_all(b"more").await.unwrap();
    assert!(timeout(Duration::from_millis(500), served(&mut line)).await.is_err(), "it takes nothing");
    let turn = Rc::clone(line.turn());
    let socket = Answering::on(&turn);
    assert_eq!(timeout(LONG, served(&mut line)).await.unwrap(), 4, "its session bounds what it is given");
    drop(socket);
    peer.write_all(b"and more").await.unwrap();
    let mut taken = vec![0; 64 << 10];
    let taking = async { while peer.read(&mut taken).await.unwrap() > 0 {} };
    let length = tokio::select! {
        length = timeout(LONG, served(&mut line)) => length.expect("what waits is read"),
        () = taking => unreachable!("the line is open"),
    };
    assert_eq!(length, 8);
}

#[tokio::test]
async fn requests_are_not_read_far_ahead_of_their_answers() {
    let (mut line, mut peer) = pair().await;
    peer.write_all(&vec![0; 64 << 10]).await.unwrap();
    let (mut bytes, mut length) = ([0; 1024], 0);
    while let Ok(read) = timeout(Duration::from_millis(500), line.read(&mut bytes)).await {
        length += read.unwrap();
    }
    assert_eq!(length, READ_AHEAD);
    line.flush().await.unwrap();
    assert!(timeout(LONG, line.read(&mut bytes)).await.is_ok(), "nothing waits to be taken");
}

#[tokio::test]
async fn requests_without_end_do_not_put_off_when_answers_are_due() {
    let turn = Turn::default();
    turn.begin(BodySize::Sized(0), PACE);
    let due = turn.due.get().unwrap();
    turn.held_up.set(true);
    sleep(Duration::from_millis(20)).await;
    turn.begin(BodySize::Sized(0), PACE);
    assert_eq!(turn.due.get().unwrap(), due);
    turn.begin(BodySize::Sized(4 << 10), PACE);
    assert_eq!(turn.due.get().unwrap(), due + Duration::from_secs(1), "what its length needs");
    turn.held_up.set(false);
    turn.begin(BodySize::Sized(0), PACE);
    assert!(turn.due.get().unwrap() > due && turn.due.get().unwrap() < due + Duration::from_secs(1) + LONG);
    turn.begin(BodySize::Stream, PACE);
    assert!(turn.due.get().is_none());
}

#[actix_web::test]
async fn what_is_given_without_an_end_ends_when_its_giver_says_so() {
    let (mut line, mut peer) = pair().await;
    let giving = Giving(Some(Rc::clone(line.turn())));
    // A task of its own, which nothing else wakes.
    let writing = spawn_local(async move {
        loop {
            if let Err(error) = line.write(&[0; 16 << 10]).await {
                return error;
            }
        }
    });
    sleep(Duration::from_millis(500)).await;
    giving.end_within(Duration::from_millis(100));
    let ended = timeout(LONG, writing).await.expect("an end").unwrap();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    let mut rest = Vec::new();
    let broken = timeout(LONG, peer.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "the kernel keeps nothing of it");
}
