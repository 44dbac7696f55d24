//! What a sandbox costs: `true` in each way of running it, and one hop through the allow-list proxy, against doing without,
//! interleaved in one run. `cargo bench --bench sandboxes` prints medians and ratios; nothing is asserted, machines are noisy.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devo::core::domain::Domain;
use devo::sandboxes::proxy::Proxy;
use devo::sandboxes::{Command, Exit, Settings, Supervisor, Surroundings, forward, open};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const STARTS: usize = 300;
const REQUESTS: usize = 300;
const DOWNLOADS: usize = 9;
const DOWNLOAD: usize = 64 << 20;

type Way<'a> = (&'a str, Box<dyn FnMut() + 'a>);

/// Each way in turn, round after round, so that all see the same machine.
fn compare(title: &str, rounds: usize, mut ways: Vec<Way<'_>>) {
    let mut taken = vec![Vec::with_capacity(rounds); ways.len()];
    for round in 0..rounds + 3 {
        for ((_, way), taken) in ways.iter_mut().zip(&mut taken) {
            let start = Instant::now();
            way();
            // The first rounds fill caches.
            if round >= 3 {
                taken.push(start.elapsed());
            }
        }
    }
    println!("\n{title:<52} {:>9} {:>9} {:>9} {:>7}", "median", "p95", "more", "ratio");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut base = None;
    for ((name, _), mut taken) in ways.iter().zip(taken) {
        taken.sort();
        let (median, p95) = (taken[rounds / 2], taken[rounds * 95 / 100]);
        let base = *base.get_or_insert(median);
        let (more, ratio) = (ms(median) - ms(base), ms(median) / ms(base));
        println!("{name:<52} {:>6.2} ms {:>6.2} ms {more:>6.2} ms {ratio:>6.2}×", ms(median), ms(p95));
    }
}

fn succeeds(program: &str, args: &[&str]) {
    let status = Process::new(program).args(args).stdin(Stdio::null()).status().expect("it starts");
    assert!(status.success(), "{program} {args:?}");
}

/// What `bwrap` is told here is close to what the sandbox tells it, without the files of /etc and the tools of PATH.
fn bwrap(workspace: &Path, command: &str) -> String {
    let workspace = workspace.display();
    format!(
        "exec 8> /dev/null 9< {devo}; exec bwrap --unshare-all --unshare-user --die-with-parent --new-session --clearenv \
         --cap-drop ALL --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
         --proc /proc --dev /dev --tmpfs /dev/shm --tmpfs /tmp --tmpfs /home/run --bind {workspace} /workspace \
         --chdir /workspace --remount-ro /proc --remount-ro /dev --remount-ro / -- {command}",
        devo = env!("CARGO_BIN_EXE_devo")
    )
}

fn starts(runtime: &Runtime) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let workspace = folder.path();
    let mut settings = Settings::new(Supervisor::at(env!("CARGO_BIN_EXE_devo")), &Surroundings::from_env());
    settings.host_allowed = Some("a measurement".to_owned());
    let exec = |name: &str, command: Command| {
        let sandbox = open(name.parse().expect("known"), &settings).expect("it works here");
        move || {
            let finished = runtime.block_on(sandbox.exec(&command, &(), &CancellationToken::new()));
            assert_eq!(finished.expect("it can be run").exit, Exit::Code(0));
        }
    };
    let (bare, inner) = (bwrap(workspace, "/bin/sh -c true"), bwrap(workspace, INNER));
    let listed = Command { network: listing("registry.example.org"), ..Command::new("true", workspace) };
    let ways: Vec<Way<'_>> = vec![
        ("a plain spawn", Box::new(|| succeeds("true", &[]))),
        ("bwrap alone", Box::new(|| succeeds("/bin/sh", &["-c", &bare]))),
        ("bwrap with the inner wall", Box::new(|| succeeds("/bin/sh", &["-c", &inner]))),
        ("the sandbox `host`", Box::new(exec("host", Command::new("true", workspace)))),
        ("the sandbox `bubblewrap`", Box::new(exec("bubblewrap", Command::new("true", workspace)))),
        ("the sandbox `bubblewrap`, with an allow-list", Box::new(exec("bubblewrap", listed))),
    ];
    compare(&format!("`true`, {STARTS} times each"), STARTS, ways);
}

const INNER: &str = "/proc/self/fd/9 sandbox-enter 8 512 alone true";

fn listing(entry: &str) -> devo::sandboxes::Network {
    devo::sandboxes::Network::Domains(Arc::new([entry.parse::<Domain>().expect("an entry")]))
}

/// Serves `/small`, and anything else as [`DOWNLOAD`] bytes, then closes.
fn web() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        for mut stream in listener.incoming().flatten() {
            let small = read_head(&mut stream).contains("/small");
            let length = if small { 100 } else { DOWNLOAD };
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let mut left = length;
            let mut open = stream.write_all(head.as_bytes()).is_ok();
            while open && left > 0 {
                let now = left.min(piece.len());
                open = stream.write_all(&piece[..now]).is_ok();
                left -= now;
            }
        }
    });
    address
}

fn read_head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// One request on a new connection, read to its end.
fn get(mut stream: impl Read + Write, tunnel_to: Option<&str>, url: &str) {
    if let Some(address) = tunnel_to {
        stream.write_all(format!("CONNECT {address} HTTP/1.1\r\n\r\n").as_bytes()).expect("open");
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"));
    }
    // In one piece: the system would hold a second one back until the first is acknowledged.
    let request = format!("GET {url} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host(url));
    stream.write_all(request.as_bytes()).expect("open");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut piece = vec![0; 256 << 10];
    let mut read = 0;
    while let Ok(more @ 1..) = stream.read(&mut piece) {
        read += more;
    }
    assert!(read == 100 || read == DOWNLOAD, "{read} bytes");
}

fn host(url: &str) -> &str {
    url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or("web")
}

fn hops(runtime: &Runtime) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("proxy");
    let _inside = runtime.enter();
    let web = web();
    let proxy = Proxy::listen(&socket).expect("a free path");
    let _grant = proxy.grant(Arc::new([web.parse::<Domain>().expect("an entry")]));
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let forward = port.local_addr().expect("bound");
    let way = socket.clone();
    std::thread::spawn(move || forward::run(&port, &way));
    for (title, path, rounds) in [("a small request", "/small", REQUESTS), ("64 MiB", "/large", DOWNLOADS)] {
        let (web, url) = (web.as_str(), format!("http://{web}{path}"));
        let (direct, proxied) =
            (|| TcpStream::connect(web).expect("open"), || UnixStream::connect(&socket).expect("open"));
        let forwarded = || TcpStream::connect(forward).expect("open");
        let ways: Vec<Way<'_>> = vec![
            ("direct", Box::new(|| get(direct(), None, path))),
            ("through the proxy, plain", Box::new(|| get(proxied(), None, &url))),
            ("through the proxy, in a tunnel", Box::new(|| get(proxied(), Some(web), path))),
            ("through a forwarder and the proxy, in a tunnel", Box::new(|| get(forwarded(), Some(web), path))),
        ];
        compare(&format!("{title}, {rounds} times each"), rounds, ways);
    }
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    starts(&runtime);
    hops(&runtime);
}
