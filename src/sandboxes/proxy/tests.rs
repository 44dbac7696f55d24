use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::serve::MOST_HEADERS;
use super::*;

/// A proxy in a folder of its own.
struct Place {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    proxy: Proxy,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("proxy");
    let proxy = Proxy::listen(&socket).expect("a free path");
    Place { _folder: folder, socket, proxy }
}

impl Place {
    fn grant(&self, entries: &[&str]) -> Grant {
        self.proxy.grant(entries.iter().map(|entry| entry.parse().expect("an entry")).collect())
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.expect("it listens")
    }

    /// Sends this, and nothing more, and reads to the end.
    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // It may have had enough before all was sent.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, url: &str) -> String {
        self.ask(format!("GET {url} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    /// An open tunnel, or the answer that refuses it.
    async fn tunnel(&self, target: &str) -> Result<UnixStream, String> {
        let mut stream = self.connect().await;
        stream
            .write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())
            .await
            .expect("open");
        let head = head(&mut stream).await;
        if head.starts_with("HTTP/1.1 200") { Ok(stream) } else { Err(head) }
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("a head is text")
}

/// Answers each request with its head, and says where it listens.
async fn web() -> String {
    async fn one(mut stream: TcpStream) {
        let head = head(&mut stream).await;
        let answer = format!("HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).await.expect("someone reads");
    }
    serve_tcp(one).await
}

/// Gives back what it gets.
async fn echo() -> String {
    async fn one(stream: TcpStream) {
        let (mut from, mut to) = stream.into_split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
    serve_tcp(one).await
}

async fn serve_tcp<F: Future<Output = ()> + Send + 'static>(each: fn(TcpStream) -> F) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// What the other side sends after this, to its end.
async fn through(mut stream: UnixStream, sent: &[u8]) -> Vec<u8> {
    stream.write_all(sent).await.expect("open");
    stream.shutdown().await.expect("open");
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.expect("open");
    received
}

#[tokio::test]
async fn plain_requests_are_passed_on_without_what_is_for_the_proxy_alone() {
    let (place, web) = (place(), web().await);
    let _grant = place.grant(&[&web]);
    let request = format!(
        "GET http://{web}/a?b=c HTTP/1.1\r\nHost: {web}\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\n\
         Connection: close, X-Hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\nX-Kept: 2\r\n\r\n"
    );
    let answer = place.ask(request.as_bytes()).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 ok\r\n") && !answer.contains("keep-alive"), "{answer}");
    let passed = answer.split_once("\r\n\r\n").expect("a head and a body").1;
    assert!(passed.starts_with("get /a?b=c http/1.1\r\n"), "{passed}");
    assert!(passed.contains(&format!("\r\nhost: {web}\r\n")) && passed.contains("x-kept: 2"), "{passed}");
    for gone in ["proxy-authorization", "te:", "x-hop", "upgrade", "websocket"] {
        assert!(!passed.contains(gone), "{gone} in {passed}");
    }
}

#[tokio::test]
async fn a_tunnel_carries_both_ways_and_ends_half_by_half() {
    let (place, echo) = (place(), echo().await);
    let _grant = place.grant(&[&echo]);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let tunnel = place.tunnel(&echo).await.expect("it is listed");
    let (mut from, mut to) = tunnel.into_split();
    let copy = sent.clone();
    tokio::spawn(async move {
        to.write_all(&copy).await.expect("open");
        to.shutdown().await.expect("open");
    });
    let mut received = Vec::new();
    from.read_to_end(&mut received).await.expect("open");
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    // What a client sends before it has the answer belongs to the tunnel.
    let request = format!("CONNECT {echo} HTTP/1.1\r\n\r\nearly");
    let mut eager = place.connect().await;
    eager.write_all(request.as_bytes()).await.expect("open");
    assert!(head(&mut eager).await.starts_with("HTTP/1.1 200"));
    assert_eq!(through(eager, b" bird").await, b"early bird");
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl OutputSink for Notes {
    fn chunk(&self, _: super::super::Stream, _: &[u8]) {}

    fn note(&self, text: &str) {
        self.0.lock().expect("no holder panics").push(text.to_owned());
    }
}

#[tokio::test]
async fn what_is_not_listed_is_refused_and_told_once() {
    let (place, web, notes) = (place(), web().await, Notes::default());
    let mut grant = place.grant(&["registry.example.org", &web]);
    let told = "network: refused evil.example:443 (not in the allow-list of this step)";
    let ask = async {
        for _ in 0..3 {
            let answer = place.tunnel("evil.example:443").await.expect_err("it is not listed");
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        }
        let answer = place.get("http://evil.example/x").await;
        assert!(answer.contains("refused evil.example:80"), "{answer}");
        for other in [
            "registry.example.org:22",
            "a.registry.example.org:443",
            "registry.example.org.evil.example:443",
            "127.0.0.1:1",
            "127.1:80",
            "2130706433:80",
            "[::ffff:127.0.0.1]:80",
            "169.254.169.254:80",
        ] {
            let answer = place.tunnel(other).await.expect_err(other);
            assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        }
        "done"
    };
    assert_eq!(grant.tell(&notes, ask).await, "done");
    let notes = notes.0.into_inner().expect("no holder panics");
    assert_eq!(notes.len(), 10, "{notes:?}");
    assert_eq!(notes[0], told);
    // However many it tries, the list stays short.
    for n in 0..200 {
        place.tunnel(&format!("host{n}.evil.example:443")).await.expect_err("it is not listed");
    }
    let more = grant.refused();
    assert_eq!(more.len() + notes.len(), MOST_TOLD + 1, "{more:?}");
    assert!(more.last().expect("there are some").contains("not listed"));
}

#[tokio::test]
async fn a_name_that_leads_home_is_refused() {
    let (place, web) = (place(), web().await);
    let port = web.rsplit(':').next().expect("a port");
    let mut grant = place.grant(&[&format!("localhost:{port}")]);
    let answer = place.get(&format!("http://localhost:{port}/")).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("is not a public one"), "{answer}");
    assert!(grant.refused()[0].contains(&format!("refused localhost:{port} (its address ")));
    // The name does not open the address that it has.
    assert!(place.get(&format!("http://{web}/")).await.starts_with("HTTP/1.1 403"));
    // Nor does a name that has none say more than that.
    let _other = place.grant(&["nowhere.invalid"]);
    assert!(place.get("http://nowhere.invalid/").await.starts_with("HTTP/1.1 502"));
}

/// What hangs here is still open.
async fn assert_cut(stream: &mut UnixStream) {
    let read = tokio::time::timeout(std::time::Duration::from_secs(60), stream.read_u8()).await;
    assert!(read.expect("it is still open").is_err(), "it still carries");
}

#[tokio::test]
async fn a_dropped_grant_cuts_what_it_allowed_and_no_other() {
    let (place, echo, web) = (place(), echo().await, web().await);
    let (first, second) = (place.grant(&[&echo]), place.grant(&[&web]));
    let mut tunnel = place.tunnel(&echo).await.expect("it is listed");
    tunnel.write_all(b"x").await.expect("open");
    assert_eq!(tunnel.read_u8().await.expect("open"), b'x');
    drop(first);
    assert_cut(&mut tunnel).await;
    assert!(place.tunnel(&echo).await.is_err());
    assert!(place.get(&format!("http://{web}/")).await.starts_with("HTTP/1.1 200"));
    drop(second);
    assert!(place.get(&format!("http://{web}/")).await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn a_dropped_proxy_leaves_nothing() {
    let (place, echo) = (place(), echo().await);
    let _grant = place.grant(&[&echo]);
    let socket = place.socket.clone();
    assert_eq!(fs::metadata(&socket).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert!(Proxy::listen(&socket).is_err(), "one path, one proxy");
    let mut tunnel = place.tunnel(&echo).await.expect("it is listed");
    let mut silent = place.connect().await;
    let folder = place._folder;
    drop(place.proxy);
    assert_cut(&mut tunnel).await;
    assert_cut(&mut silent).await;
    assert!(!socket.exists() && UnixStream::connect(&socket).await.is_err());
    drop(folder);
}

#[tokio::test]
async fn connections_are_bounded_and_those_that_wait_get_their_turn() {
    let (place, echo) = (place(), echo().await);
    let _grant = place.grant(&[&echo]);
    let mut tunnels = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        tunnels.push(place.tunnel(&echo).await.expect("there is room"));
    }
    let mut waiting = place.connect().await;
    waiting.write_all(format!("CONNECT {echo} HTTP/1.1\r\n\r\n").as_bytes()).await.expect("the system takes it");
    // All others still work, and this one has not been looked at.
    for tunnel in &mut tunnels {
        tunnel.write_all(b"x").await.expect("open");
        assert_eq!(tunnel.read_u8().await.expect("open"), b'x');
    }
    assert_eq!(waiting.try_read(&mut [0]).expect_err("not answered").kind(), io::ErrorKind::WouldBlock);
    tunnels.pop();
    assert!(head(&mut waiting).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_proxy_that_keeps_all_it_can_get_leaves_others_their_own() {
    const COMMON: usize = 2;
    let common: &'static Semaphore = Box::leak(Box::new(Semaphore::new(COMMON)));
    let echo = echo().await;
    let open = async |port: &str| {
        let mut stream = TcpStream::connect(port).await.expect("it listens");
        stream.write_all(format!("CONNECT {echo} HTTP/1.1\r\n\r\n").as_bytes()).await.expect("the system takes it");
        stream
    };
    let mut proxies = Vec::new();
    for _ in 0..2 {
        let (proxy, port) = (Proxy::beside(common), TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let address = port.local_addr().expect("bound").to_string();
        proxy.answer(port);
        let grant = proxy.grant([echo.parse().expect("an entry")].into());
        proxies.push((proxy, grant, address));
    }
    let (greedy, other) = (&proxies[0].2, &proxies[1].2);
    let mut kept = Vec::new();
    for _ in 0..OWN_CONNECTIONS + COMMON {
        let mut stream = open(greedy).await;
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
        kept.push(stream);
    }
    let mut others = Vec::new();
    for _ in 0..OWN_CONNECTIONS {
        let mut stream = open(other).await;
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), head(&mut stream)).await;
        assert!(answer.expect("it waits for nobody").starts_with("HTTP/1.1 200"));
        others.push(stream);
    }
    // One more takes its turn.
    let mut waiting = open(other).await;
    kept.pop();
    kept.pop();
    assert!(head(&mut waiting).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn garbage_ends_its_connection_and_nothing_else() {
    let (place, web) = (place(), web().await);
    let _grant = place.grant(&[&web, "*.example.org"]);
    let long = "x".repeat(1 << 20);
    let requests = [
        "\0\0\0\0".to_owned(),
        "GET\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".into(),
        "OPTIONS * HTTP/1.1\r\n\r\n".into(),
        "CONNECT / HTTP/1.1\r\n\r\n".into(),
        "CONNECT a.example.org HTTP/1.1\r\n\r\n".into(),
        "CONNECT a.example.org:99999 HTTP/1.1\r\n\r\n".into(),
        format!("CONNECT user@{web} HTTP/1.1\r\n\r\n"),
        format!("CONNECT {web} HTTP/1.1\r\nHost: a.example.org:443\r\n\r\n"),
        format!("GET ftp://{web}/ HTTP/1.1\r\n\r\n"),
        format!("GET https://{web}/ HTTP/1.1\r\n\r\n"),
        format!("GET http://{web}/ HTTP/1.1\r\nHost: a.example.org\r\n\r\n"),
        format!("GET http://{web}/ HTTP/1.1\r\nHost: {web}\r\nHost: a.example.org\r\n\r\n"),
        format!("GET http://{web}/ HTTP/1.1\r\nHost: {web}, a.example.org\r\n\r\n"),
        format!("POST http://{web}/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST http://{web}/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
        format!("POST http://{web}/ HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\nabc"),
        format!("GET http://{web}/{long} HTTP/1.1\r\n\r\n"),
        format!("GET http://{web}/ HTTP/1.1\r\nX: {long}\r\n\r\n"),
        format!("GET http://{web}/ HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MOST_HEADERS + 1)),
        format!("GET http://{web}/ HTTP/1.1\r\nX : y\r\n\r\n"),
        format!("GET http://{web}/ HTTP/1.1\r\nX: y\r\n folded\r\n\r\n"),
    ];
    for request in requests {
        let mut stream = place.connect().await;
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        let shown: String = request.chars().take(120).collect();
        assert!(refused && answer.matches("HTTP/1.1 ").count() < 2, "{shown:?}: {answer}");
    }
    assert!(place.get(&format!("http://{web}/")).await.starts_with("HTTP/1.1 200"), "it still works");
}

#[tokio::test]
async fn a_body_is_carried_whatever_its_framing() {
    async fn one(mut stream: TcpStream) {
        let head = head(&mut stream).await.to_ascii_lowercase();
        let (length, mut body) = (head.contains("content-length: 5"), vec![0; 5]);
        if length {
            stream.read_exact(&mut body).await.expect("a body");
        } else {
            let mut chunked = [0; 15];
            stream.read_exact(&mut chunked).await.expect("a chunk and the last one");
            body.copy_from_slice(&chunked[3..8]);
        }
        // Without a length, and in pieces: its end is that of the connection.
        stream.write_all(b"HTTP/1.1 201 Created\r\n\r\ngot ").await.expect("someone reads");
        stream.write_all(&body).await.expect("someone reads");
    }
    let (place, web) = (place(), serve_tcp(one).await);
    let _grant = place.grant(&[&web]);
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let request = format!("POST http://{web}/ HTTP/1.1\r\nConnection: close\r\n{body}");
        let answer = place.ask(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 201 Created") && answer.contains("got hello"), "{answer}");
    }
}

#[tokio::test]
async fn a_loopback_port_leads_to_the_proxy() {
    let (place, echo, web) = (place(), echo().await, web().await);
    let _grant = place.grant(&[&echo, &web]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let socket = place.socket.clone();
    // Ends with the test's process, as in a sandbox.
    std::thread::spawn(move || super::super::forward::run(&listener, &socket));
    for _ in 0..200 {
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET http://{web}/ HTTP/1.1\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("open");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("text");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..150_u8 {
        let echo = echo.clone();
        clients.spawn(async move {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.write_all(format!("CONNECT {echo} HTTP/1.1\r\n\r\n").as_bytes()).await.expect("open");
            assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
            let (mut from, mut to) = client.into_split();
            let sending = tokio::spawn(async move {
                to.write_all(&vec![n; 200_000]).await.expect("open");
                to.shutdown().await.expect("open");
            });
            let mut received = Vec::new();
            from.read_to_end(&mut received).await.expect("open");
            sending.await.expect("all was sent");
            assert!(received == vec![n; 200_000], "{} bytes came back", received.len());
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("it got back what it sent");
    }
    // Who leaves in the middle takes nobody along.
    let mut client = TcpStream::connect(address).await.expect("it listens");
    client.write_all(b"CONNECT").await.expect("open");
    drop(client);
    let mut client = TcpStream::connect(address).await.expect("it listens");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("open");
    assert!(head(&mut client).await.starts_with("HTTP/1.1 400"));
}
