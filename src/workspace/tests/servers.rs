//! Real servers on loopback: `git http-backend` behind a few lines of HTTP that want a user and a password, `sshd` with keys of
//! its own, and ones that misbehave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use base64::Engine as _;

use super::*;

/// git over http. `user:password` of who may read, and of who may write as well.
pub struct GitHttp {
    pub address: String,
    pub readers: Arc<Mutex<Vec<String>>>,
    pub writers: Arc<Mutex<Vec<String>>>,
}

impl GitHttp {
    /// Serves the bare repositories of a folder until the process ends.
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (readers, writers) = (Arc::default(), Arc::default());
        let this = Self { address, readers: Arc::clone(&readers), writers: Arc::clone(&writers) };
        let root = root.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (root, readers, writers) = (root.clone(), Arc::clone(&readers), Arc::clone(&writers));
                std::thread::spawn(move || answer(stream.unwrap(), &root, &readers, &writers));
            }
        });
        this
    }

    pub fn remote(&self, name: &str) -> Remote {
        Remote::parse(&format!("http://{}/{name}", self.address), Path::new("/")).unwrap()
    }
}

type Logins = Arc<Mutex<Vec<String>>>;

fn answer(mut stream: TcpStream, root: &Path, readers: &Logins, writers: &Logins) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().map(|_| line.trim_end().to_owned())
    };
    let request = line()?;
    let mut headers = std::collections::HashMap::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let header = |name: &str| headers.get(name).map_or("", String::as_str);
    let mut words = request.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));

    let mut body = Vec::new();
    if header("transfer-encoding") == "chunked" {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            reader.by_ref().take(size).read_to_end(&mut body).ok()?;
            reader.read_line(&mut String::new()).ok()?;
            if size == 0 {
                break;
            }
        }
    } else {
        let size = header("content-length").parse().unwrap_or(0);
        reader.by_ref().take(size).read_to_end(&mut body).ok()?;
    }

    let login = header("authorization").strip_prefix("Basic ").unwrap_or_default();
    let login = base64::engine::general_purpose::STANDARD.decode(login).unwrap_or_default();
    let knows = |logins: &Logins| logins.lock().unwrap().iter().any(|known| known.as_bytes() == login);
    let writes = target.contains("git-receive-pack");
    let refuse = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    };
    if !knows(writers) && !knows(readers) {
        return stream.write_all(refuse("401 Unauthorized").as_bytes()).ok();
    }
    if writes && !knows(writers) {
        return stream.write_all(refuse("403 Forbidden").as_bytes()).ok();
    }
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH")?)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", root)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "someone")
        .envs([("REQUEST_METHOD", method), ("PATH_INFO", path), ("QUERY_STRING", query)])
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = backend.stdin.take()?;
    let feed = std::thread::spawn(move || stdin.write_all(&body));
    let output = backend.wait_with_output().ok()?;
    let _ = feed.join();
    let end = output.stdout.windows(4).position(|end| end == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&output.stdout[..end]).into_owned(), &output.stdout[end + 4..]);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let head = format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}

/// A real `sshd`, one process per connection, with a host key of its own and one key that may enter.
pub struct Sshd {
    pub port: u16,
    folder: PathBuf,
}

impl Sshd {
    pub fn start(folder: &Path) -> Self {
        let program = Path::new("/usr/sbin/sshd");
        assert!(program.exists(), "this test needs a real ssh server: apt-get install openssh-server");
        let folder = folder.join("ssh");
        std::fs::create_dir(&folder).unwrap();
        if rustix::process::geteuid().is_root() {
            // Where sshd locks its unprivileged half in; the system's service makes it otherwise.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        for name in ["host", "good", "bad", "other-host"] {
            sh(&folder, &format!("ssh-keygen -q -t ed25519 -N '' -C '' -f {name}"));
        }
        let text = format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/good.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\nLogLevel QUIET\n",
            folder.display()
        );
        std::fs::write(folder.join("config"), text).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = folder.join("config");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let (input, output) = (std::os::fd::OwnedFd::from(stream.try_clone().unwrap()), stream);
                let mut server = Command::new("/usr/sbin/sshd")
                    .args(["-i", "-f"])
                    .arg(&config)
                    .stdin(input)
                    .stdout(std::os::fd::OwnedFd::from(output))
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                std::thread::spawn(move || server.wait());
            }
        });
        Self { port, folder }
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file that says which key the server has.
    pub fn known_hosts(&self, key: &str) -> PathBuf {
        let public = std::fs::read_to_string(self.folder.join(format!("{key}.pub"))).unwrap();
        let path = self.folder.join(format!("known-{key}"));
        std::fs::write(&path, format!("[127.0.0.1]:{} {public}", self.port)).unwrap();
        path
    }

    pub fn remote(&self, path: &Path) -> Remote {
        let user = sh(&self.folder, "id -un");
        let url = format!("ssh://{}@127.0.0.1:{}{}", user.trim(), self.port, path.display());
        Remote::parse(&url, Path::new("/")).unwrap()
    }
}

/// Takes connections and says nothing; the counter is how many it took.
pub fn silent() -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            open.push(stream);
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    (address, taken)
}

/// Answers every request with the same bytes.
pub fn always(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                line.clear();
            }
            let _ = stream.write_all(&answer);
        }
    });
    address
}
