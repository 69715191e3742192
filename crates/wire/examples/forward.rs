//! The shortest HTTP/1 forwarder on this room: every request to one upstream, keep-alive on both sides, no policy.
//! It shows how the pieces fit and is the thing to profile.
//!
//! `cargo run -p bartizan-wire --example forward -- 127.0.0.1:8080 127.0.0.1:80`

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bartizan_wire::exchange::{Downstream, send_request, send_response};
use bartizan_wire::h1::{ClientConnection, HeadError, Limits, ServerConnection};
use bartizan_wire::head::ResponseHead;
use bartizan_wire::pool::{Pool, PoolLimits};
use bartizan_wire::socket::{Bind, Connect, bind, connect, tune_accepted};
use bytes::Bytes;
use http::StatusCode;
use tokio::net::TcpStream;
use tokio::time::Instant;

type Upstreams = Arc<Mutex<Pool<SocketAddr, ClientConnection<TcpStream>>>>;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn checkout(upstreams: &Upstreams, to: SocketAddr) -> std::io::Result<ClientConnection<TcpStream>> {
    let now = std::time::Instant::now();
    let idle = upstreams
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .checkout(&to, now);
    match idle {
        Some(up) => Ok(up),
        None => {
            let tcp = connect(to, Connect::default(), soon()).await?;
            Ok(ClientConnection::new(tcp, Limits::default()))
        }
    }
}

async fn serve(tcp: TcpStream, to: SocketAddr, upstreams: Upstreams) {
    let mut down = ServerConnection::new(tcp, Limits::default());
    loop {
        let head = match down.read_head().await {
            Ok(Some(head)) => head,
            Err(HeadError::Parse(error)) => {
                down.reply_error(error.status()).await;
                break;
            }
            Ok(None) | Err(HeadError::Closed | HeadError::Io(_)) => break,
        };
        let exchanged = async {
            let mut up = checkout(&upstreams, to).await.ok()?;
            let response = send_request(&mut down, &mut up, &head).await.ok()?;
            // The head's buffer goes back to its connection before the next read.
            drop(head);
            // A response that breaks off must be seen as one: no reply after it.
            Some((send_response(&mut down, &mut up, &response).await.is_ok(), up))
        };
        match exchanged.await {
            Some((true, up)) => {
                let now = std::time::Instant::now();
                upstreams
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .checkin(to, up, now);
            }
            None if Downstream::counters(&down).head_sent == 0 => {
                let bad_gateway = ResponseHead::new(StatusCode::BAD_GATEWAY);
                if down.reply(bad_gateway, Bytes::new()).await.is_err() {
                    return;
                }
            }
            Some((false, _)) | None => return,
        }
        if !down.keep_alive() {
            break;
        }
    }
    down.close(soon()).await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, to] = arguments.as_slice() else {
        return Err("usage: forward LISTEN UPSTREAM".into());
    };
    let (listen, to) = (listen.parse()?, to.parse()?);
    let listener = bind(listen, Bind::default())?;
    let upstreams = Arc::new(Mutex::new(Pool::new(PoolLimits::default())));
    loop {
        let (tcp, _) = listener.accept().await?;
        tune_accepted(&tcp, None)?;
        tokio::spawn(serve(tcp, to, Arc::clone(&upstreams)));
    }
}
