//! A network that is an allow-list, from inside: what gets through, what does not, and what is said about it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl OutputSink for Notes {
    fn chunk(&self, _: Stream, _: &[u8]) {}

    fn note(&self, text: &str) {
        self.0.lock().expect("no holder panics").push(text.to_owned());
    }
}

/// A web server on the host that answers every request with `hello from PATH` and then closes; and its port.
pub fn web_at(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    port
}

/// One whose address is 127.0.0.2, for which no program leaves the proxy out.
fn web() -> u16 {
    web_at("127.0.0.2")
}

fn answer(mut stream: std::net::TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let body = format!("hello from {}\n", head.split(' ').nth(1).unwrap_or_default());
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

fn allowing(place: &Place, entries: &[&str], script: &str) -> Command {
    let domains = entries.iter().map(|entry| entry.parse().expect("an entry")).collect();
    Command { network: Network::Domains(domains), ..place.command(script) }
}

/// A shell function that sends a request to the proxy and shows the answer.
const ASK: &str = r#"ask() { bash -c 'exec 3<> /dev/tcp/127.0.0.1/3128; printf "$0" >&3; cat <&3' "$1"; }; "#;

async fn told(command: &Command) -> (Finished, Vec<String>) {
    let notes = Notes::default();
    let finished = sandbox("bubblewrap").exec(command, &notes, &CancellationToken::new()).await.expect("it can be run");
    (finished, notes.0.into_inner().expect("no holder panics"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub async fn what_is_listed_is_reached_and_nothing_else() {
    let (place, port, other) = (Place::new(), web(), web());
    let script = format!(
        "{ASK}
         ask 'GET http://127.0.0.2:{port}/plain HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n'
         ask 'CONNECT 127.0.0.2:{port} HTTP/1.1\\r\\n\\r\\nGET /tunnel HTTP/1.1\\r\\n\\r\\n'
         ask 'GET http://127.0.0.2:{other}/other HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n'
         ask 'CONNECT evil.example:443 HTTP/1.1\\r\\n\\r\\n'
         ask 'CONNECT evil.example:443 HTTP/1.1\\r\\n\\r\\n'
         for p in {port} {other}; do bash -c \"exec 3<> /dev/tcp/127.0.0.2/$p\" 2> /dev/null && echo leak; done
         tail -n +3 /proc/net/dev | cut -d: -f1
         cat
         cat /proc/[0-9]*/comm | grep devo
         true"
    );
    let (finished, notes) = told(&allowing(&place, &[&format!("127.0.0.2:{port}")], &script)).await;
    let text = finished.stdout.text();
    assert_eq!(finished.exit, Exit::Code(0), "{text}\n{}", finished.stderr.text());
    assert!(text.contains("hello from /plain") && text.contains("hello from /tunnel"), "{text}");
    assert!(!text.contains("hello from /other") && !text.contains("leak"), "{text}");
    assert!(text.ends_with("    lo\n"), "one interface, no input, no process of ours: {text}");
    let refused = |what: &str| format!("network: refused {what} (not in the allow-list of this step)");
    assert_eq!(notes, [refused(&format!("127.0.0.2:{other}")), refused("evil.example:443")]);
    assert!(text.contains(&notes[0]), "the command is told too: {text}");
}

/// A real client that knows nothing but the variables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_find_the_proxy_by_themselves() {
    let (place, port) = (Place::new(), web());
    // What answers is no repository, and git says so; that it answers is the point.
    let script = format!("GIT_CURL_VERBOSE=1 git ls-remote http://127.0.0.2:{port}/r");
    let (finished, notes) = told(&allowing(&place, &[&format!("127.0.0.2:{port}")], &script)).await;
    let text = finished.stderr.text();
    assert!(text.contains("200 OK") && notes.is_empty(), "{notes:?} {text}");
    let (finished, notes) = told(&allowing(&place, &["example.org"], &script)).await;
    let text = finished.stderr.text();
    assert!(text.contains("403") && notes.len() == 1, "{notes:?} {text}");
    // The host's own 127.0.0.1, where a person wrote it down; what else is there stays the command's own.
    let port = web_at("127.0.0.1");
    let script = format!("GIT_CURL_VERBOSE=1 git ls-remote http://127.0.0.1:{port}/r; echo $no_proxy");
    let (finished, notes) = told(&allowing(&place, &[&format!("127.0.0.1:{port}")], &script)).await;
    let text = finished.stderr.text();
    assert!(text.contains("200 OK") && notes.is_empty(), "{notes:?} {text}");
    assert_eq!(finished.stdout.text(), "localhost,::1\n");
    // What a command brings itself wins.
    let mut own = allowing(&place, &["example.org"], "echo $http_proxy $HTTPS_PROXY $no_proxy");
    own.env = vec![("http_proxy".into(), "mine".into())];
    let (finished, _) = told(&own).await;
    assert_eq!(finished.stdout.text(), "mine http://127.0.0.1:3128 localhost,127.0.0.1,::1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_name_does_not_lead_to_the_host() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let script = format!("{ASK} ask 'GET http://localhost:{port}/ HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n'");
    let (finished, notes) = told(&allowing(&place, &[&format!("localhost:{port}"), "*.example.org"], &script)).await;
    assert!(finished.stdout.text().starts_with("HTTP/1.1 403"), "{}", finished.stdout.text());
    assert!(notes[0].contains("is not a public one") && notes.len() == 1, "{notes:?}");
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.accept().is_err(), "it was dialled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_has_a_list_of_its_own() {
    let (place, first, second) = (Place::new(), web(), web());
    let script = |port: u16| {
        format!(
            "{ASK} ask 'GET http://127.0.0.2:{first}/1 HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n'; \
             ask 'GET http://127.0.0.2:{second}/2 HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n'; echo {port}"
        )
    };
    let one = allowing(&place, &[&format!("127.0.0.2:{first}")], &script(first));
    let two = allowing(&place, &[&format!("127.0.0.2:{second}")], &script(second));
    let ((one, _), (two, _)) = tokio::join!(told(&one), told(&two));
    let (one, two) = (one.stdout.text(), two.stdout.text());
    assert!(one.contains("hello from /1") && !one.contains("hello from /2"), "{one}");
    assert!(two.contains("hello from /2") && !two.contains("hello from /1"), "{two}");
}

/// More connections than there may be, and rubbish on all of them: the command gets what it asks for afterwards, and
/// the engine goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_harms_nobody() {
    let (place, port) = (Place::new(), web());
    let script = format!(
        "{ASK}
         perl -MIO::Socket::INET -e 'my @all; for my $n (1 .. 400) {{
             my $s = IO::Socket::INET->new(PeerAddr => \"127.0.0.1:3128\", Timeout => 5) or last;
             syswrite($s, \"x\" x ($n * 50)); push @all, $s }} print scalar(@all), \"\\n\"'
         ask 'GET http://127.0.0.2:{port}/after HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n'"
    );
    let (finished, _) = told(&allowing(&place, &[&format!("127.0.0.2:{port}")], &script)).await;
    assert!(finished.stdout.text().contains("hello from /after"), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_sandbox_refuses_a_list_that_it_cannot_keep() {
    let place = Place::new();
    let command = allowing(&place, &["example.org"], "touch ran");
    let error = sandbox("host").exec(&command, &(), &CancellationToken::new()).await.expect_err("it must be refused");
    assert!(matches!(error, SandboxError::Unavailable { .. }) && error.hint().is_some(), "{error}");
    assert!(!place.workspace.join("ran").exists());
}
