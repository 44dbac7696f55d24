//! Every way out that we could think of, in one table: each is tried in every isolating sandbox and must fail there, and
//! is first shown to work where nothing stops it, so that it is a test that can fail.
//!
//! `docs/security.md` names them all, with what stops each; a test here keeps that page and this table the same.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Stdio;

use super::*;

/// What only an attempt that got through prints.
const THROUGH: &str = "through";
/// What each prints first, with its tools at hand: else it would fail for the wrong reason.
const TRIED: &str = "tried";
/// What a call prints that this kernel does not have.
const ABSENT: &str = "absent";

/// How an attempt is shown to be one.
#[derive(Clone)]
enum Proof {
    /// As an ordinary process it gets through.
    Plain,
    /// The same, for root.
    Root,
    /// The same, for root and where the kernel has what it needs.
    Kernel,
    /// The same, where the machine has a way to other machines.
    Routed,
    /// The same sandbox lets it through when the allow-list has this entry.
    Listed(String),
    /// It would harm the machine.
    Never,
}

struct Attempt {
    /// As the page calls it.
    name: &'static str,
    script: String,
    proof: Proof,
    adjust: fn(&mut Command),
    /// Entries of an allow-list; without any there is no network.
    network: Vec<String>,
    /// What runs beside it in another sandbox, and makes a file `ready`.
    peer: Option<String>,
}

impl Attempt {
    fn with(mut self, adjust: fn(&mut Command)) -> Self {
        self.adjust = adjust;
        self
    }

    fn beside(mut self, peer: String) -> Self {
        self.peer = Some(peer);
        self
    }

    fn listing(mut self, entry: &str) -> Self {
        self.network = vec![entry.to_owned()];
        self
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = Command { timeout: Some(HANGS), ..place.command(&self.script) };
        (self.adjust)(&mut command);
        command.network = allow(&self.network);
        command
    }
}

fn allow(entries: &[String]) -> Network {
    match entries {
        [] => Network::None,
        entries => Network::Domains(entries.iter().map(|entry| entry.parse().expect("an entry")).collect()),
    }
}

fn attempt(name: &'static str, proof: Proof, script: String) -> Attempt {
    Attempt { name, script, proof, adjust: |_| (), network: Vec::new(), peer: None }
}

/// Shell that needs these programs.
fn shell(tools: &str, script: &str) -> String {
    let needed = tools.split_whitespace().map(|tool| format!("command -v {tool} > /dev/null && ")).collect::<String>();
    format!("{needed}echo {TRIED}; {{ {script}\n}} 2> /dev/null; true")
}

/// Shell that gets through if it may open one of these for writing. Nothing is written.
fn opens(files: &str) -> String {
    shell("", &format!("for f in {files}; do [ -e \"$f\" ] && ( : >> \"$f\" ) && echo {THROUGH}; done"))
}

fn perl(modules: &str, script: &str) -> String {
    let script = format!("{modules} $| = 1; print \"{TRIED}\\n\"; {script}");
    assert!(!script.contains('\''), "{script}");
    format!("perl -e '{script}'; true")
}

/// Perl that gets through if the kernel lets the call come as far as its arguments.
fn call(number: i64, arguments: &str) -> String {
    let script = format!(
        "$! = 0; my $r = syscall({number}{arguments}); my $e = $! + 0; print $r != -1 ? \"{THROUGH}\" : \
         $e == 38 || $e == 97 ? \"{ABSENT}\" : $e == 1 || $e == 13 ? \"kept\" : \"{THROUGH}\", \"\\n\""
    );
    perl("", &script)
}

fn socket(family: i32, kind: i32, protocol: i32) -> String {
    call(libc::SYS_socket, &format!(", {family}, {kind}, {protocol}"))
}

fn connects(address: &str) -> String {
    let script = format!(
        "for my $a ({address}) {{ socket(S, AF_UNIX, SOCK_STREAM, 0) or next; connect(S, pack_sockaddr_un($a)) and \
         print \"{THROUGH}\\n\" }}"
    );
    perl("use Socket;", &script)
}

/// Asks the proxy on its own loopback for these, and gets through where the host's server answers.
fn asks_proxy(targets: &str, port: u16) -> String {
    let script = format!(
        "for h in {targets}; do bash -c 'exec 3<> /dev/tcp/127.0.0.1/3128; printf \"CONNECT $0:{port} \
         HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.1\\r\\n\\r\\n\" >&3; cat <&3' $h | grep -q 'hello from' && echo {THROUGH}; done"
    );
    shell("bash grep", &script)
}

/// What lies outside of a sandbox and must stay out of reach.
struct Ground {
    place: Place,
    /// The workspace of another run.
    beside: Place,
    /// A copy of the program, so that nothing else runs it.
    devo: PathBuf,
    marker: String,
    udp: [UdpSocket; 2],
    victim: Victim,
    /// A file in /dev/shm.
    shared: PathBuf,
    /// One in /tmp.
    met: PathBuf,
    attempts: Vec<Attempt>,
    /// Perl that takes away what no process holds.
    undo: String,
    /// Held open: listeners, and a folder that every child inherits.
    _open: Vec<Box<dyn std::any::Any>>,
}

impl Ground {
    fn new() -> Self {
        let place = Place::new();
        let outside = place.outside.clone();
        let write = |path: &str, mode: u32| {
            let path = outside.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            fs::write(&path, format!("{THROUGH}\n")).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        };
        for path in ["secret", "home/state.db", "home/token", "home/runs/other/workspace/file", "user/.ssh/id_ed25519"]
        {
            write(path, 0o600);
        }
        write("../git/config", 0o600);
        let program = outside.join("devo");
        fs::copy(devo(), &program).expect("room for a copy");
        let switch = place.workspace.join("switch");
        fs::copy("/usr/bin/perl", &switch).expect("perl-base is part of every Debian");
        if is_root() {
            std::os::unix::fs::chown(&switch, Some(1), Some(1)).expect("root may");
        }
        fs::set_permissions(&switch, fs::Permissions::from_mode(0o4755)).expect("ours");
        let shared = Path::new("/dev/shm").join(format!("devo-escape-{:016x}", fastrand::u64(..)));
        fs::write(&shared, format!("{THROUGH}\n")).expect("ours");
        let victim = std::process::Command::new("sh")
            .args(["-c", "exec 9< secret; exec sleep 1000"])
            .current_dir(&outside)
            .env("ESCAPE", THROUGH)
            .spawn()
            .expect("a process");
        let mut ground = Self {
            marker: marker(),
            udp: ["127.0.0.1".to_owned(), an_address()].map(|address| {
                let socket = UdpSocket::bind((address.as_str(), 0)).expect("a port");
                socket.set_nonblocking(true).expect("a socket");
                socket
            }),
            victim: Victim(victim),
            devo: program,
            place,
            beside: Place::new(),
            shared,
            met: PathBuf::new(),
            attempts: Vec::new(),
            undo: String::new(),
            _open: Vec::new(),
        };
        ground.attempts = ground.table();
        ground
    }

    /// What an attempt did out here, if it did anything; and puts things right.
    fn noticed(&self) -> Option<&'static str> {
        let mut datagram = [0; 8];
        if self.udp.iter().any(|socket| socket.recv(&mut datagram).is_ok()) {
            return Some("a datagram came through");
        }
        if fs::remove_file(self.place.outside.join("written")).is_ok() {
            return Some("a file was written outside");
        }
        (alive(&self.marker) > 0).then_some("a process outlived its command")
    }

    /// Runs it beside its peer, if it has one, both with nothing around them; what it printed.
    fn both_plainly(&self, attempt: &Attempt, command: &Command) -> String {
        let _peer = attempt.peer.as_ref().map(|script| {
            let mut peer = std::process::Command::new("sh");
            let peer = peer.args(["-c", script]).current_dir(&self.beside.workspace);
            let peer = peer.stdout(Stdio::null()).spawn().expect("sh starts");
            wait_until("the peer", HANGS, || self.beside.workspace.join("ready").exists());
            Victim(peer)
        });
        self.plainly(command)
    }

    /// Runs it with nothing around it; what it printed.
    fn plainly(&self, command: &Command) -> String {
        let said = self.place.outside.join("said");
        let mut child = std::process::Command::new("sh")
            .args(["-c", &command.script])
            .current_dir(&self.place.workspace)
            .stdin(Stdio::null())
            // No pipe: whoever outlives it would hold that open.
            .stdout(fs::File::create(&said).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let limit = command.timeout.expect("all have one");
        let start = Instant::now();
        while child.try_wait().expect("ours").is_none() {
            if start.elapsed() > limit {
                child.kill().expect("ours");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        fs::read_to_string(&said).expect("it is there")
    }

    /// Ends what an attempt left on this machine.
    fn settle(&self) {
        // Again and again: who waited for one of them starts the next.
        wait_until("the death of what an attempt left", HANGS, || {
            for process in fs::read_dir("/proc").expect("a Linux machine").flatten() {
                let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
                if String::from_utf8_lossy(&arguments).contains(&self.marker) {
                    let kill = format!("kill -9 {}", process.file_name().display());
                    let _ = std::process::Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
                }
            }
            alive(&self.marker) == 0
        });
        let _ = fs::remove_file(self.beside.workspace.join("ready"));
        for entry in fs::read_dir(&self.place.workspace).expect("ours").flatten() {
            let path = entry.path();
            if entry.file_name() != "switch" {
                let gone = if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                gone.expect("ours");
            }
        }
    }

    /// Keeps something open as long as this.
    fn open<T: 'static>(&mut self, what: T) {
        self._open.push(Box::new(what));
    }

    #[rustfmt::skip]
    fn table(&mut self) -> Vec<Attempt> {
        use Proof::{Kernel, Listed, Never, Plain, Root, Routed};
        let outside = self.place.outside.display().to_string();
        let (devo, victim, marker) = (self.devo.display().to_string(), self.victim.0.id(), self.marker.clone());
        let shared = self.shared.display().to_string();
        let listener = |address: &str| TcpListener::bind((address, 0)).expect("a port");
        let far = self.udp[1].local_addr().expect("bound").ip().to_string();
        let [tcp, tcp_6, tcp_far] = ["127.0.0.1", "::1", &far].map(|address| {
            let listener = listener(address);
            let port = listener.local_addr().expect("bound").port();
            self.open(listener);
            port
        });
        let [udp, udp_far] = [0, 1].map(|at: usize| self.udp[at].local_addr().expect("bound").port());
        let met = listener("127.0.0.1").local_addr().expect("bound").port();
        let web = network::web_at("127.0.0.1");
        let other_web = network::web_at("127.0.0.2");
        let name = format!("devo-escape-{:016x}", fastrand::u64(..));
        self.open(UnixListener::bind(format!("{outside}/docker.sock")).expect("a socket"));
        self.open(UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("short")).expect("a socket"));
        // A folder that a careless parent left open for its children.
        let folder = fs::File::open(&outside).expect("a folder");
        rustix::io::fcntl_setfd(&folder, rustix::io::FdFlags::empty()).expect("ours");
        self.open(folder);
        self.met = Path::new("/tmp").join(format!("{name}-2"));
        let segment: u32 = fastrand::u32(1..1 << 31);
        // Both are the kernel's, and go with this ground.
        let key = format!(
            "my $i = syscall({}, my $t = \"user\", my $n = \"{name}\", my $v = \"{THROUGH}\\n\", 8, -4); \
             my $s = shmget({segment}, 64, 01600); shmwrite($s, \"{THROUGH}\\n\", 0, 8) if defined $s; print $i",
            libc::SYS_add_key);
        let made = std::process::Command::new("perl").args(["-e", &key]).output().expect("it starts").stdout;
        let key = String::from_utf8_lossy(&made).into_owned();
        self.undo = format!(
            "syscall({}, 21, {key}) if {key} > 0; my $s = shmget({segment}, 0, 0); shmctl($s, 0, 0) if defined $s",
            libc::SYS_keyctl);
        let bash = |script: String| shell("bash", &format!("bash -c '{script}' && echo {THROUGH}"));
        let unshares = |flag: i32| call(libc::SYS_unshare, &format!(", {flag}"));
        vec![
            // Files.
            attempt("read-journal", Plain, shell("cat", &format!("cat {outside}/home/state.db"))),
            attempt("read-token", Plain, shell("cat", &format!("cat {outside}/home/token"))),
            attempt("read-other-run", Plain, shell("cat", &format!("cat {outside}/home/runs/other/workspace/file"))),
            attempt("read-ssh-key", Plain, shell("cat", &format!("cat {outside}/user/.ssh/id_ed25519"))),
            attempt("read-git-dir", Plain, shell("cat", "cat ../git/config /proc/self/cwd/../git/config")),
            attempt("write-outside", Plain, shell("", &format!("echo x > {outside}/written"))),
            attempt("symlink-read", Plain, shell("ln cat", &format!("ln -s {outside}/secret l; cat l"))),
            attempt("symlink-write", Plain, shell("ln", &format!("ln -s {outside}/written w; echo x > w"))),
            attempt("hard-link", Plain, shell("ln cat", &format!("ln {outside}/secret h; cat h"))),
            attempt("shared-memory-file", Plain, shell("cat", &format!("cat {shared}"))),
            attempt("plant-in-system", Root, shell("touch rm",
                &format!("for d in /usr/bin /etc /lib /opt; do f=$d/devo-escape; touch $f && rm $f && echo {THROUGH}; done"))),
            attempt("inherited-descriptor", Plain, shell("cat", "for f in /proc/self/fd/*; do cat $f/secret; done")),
            attempt("file-handle", Root, perl("", &format!(
                "my $h = pack(\"Lla128\", 128, 0, \"\"); my $m = pack(\"l\", 0); open(D, \"<\", \".\"); \
                 my $n = syscall({}, -100, my $p = \".\", $h, $m, 0); \
                 print \"{THROUGH}\\n\" if $n == 0 && syscall({}, fileno(D), $h, 0) >= 0",
                libc::SYS_name_to_handle_at, libc::SYS_open_by_handle_at))),
            // Other processes.
            attempt("process-environment", Plain, shell("cat tr sed",
                "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | sed -n 's/^ESCAPE=//p'")),
            attempt("engine-environment", Plain, shell("", &format!("[ -n \"$CARGO_MANIFEST_DIR\" ] && echo {THROUGH}"))),
            attempt("process-root", Plain, shell("cat", &format!("for p in 1 {victim}; do cat /proc/$p/root{outside}/secret; done"))),
            attempt("process-folder", Plain, shell("cat", &format!("cat /proc/{victim}/cwd/secret"))),
            attempt("process-descriptor", Plain, shell("cat", &format!("cat /proc/{victim}/fd/9"))),
            attempt("steal-descriptor", Root, perl("", &format!(
                "my $p = syscall({}, {victim}, 0); my $f = syscall({}, $p, 9, 0); \
                 if ($f >= 0 && open(F, \"<&=\", $f)) {{ sysseek(F, 0, 0); print <F> }}",
                libc::SYS_pidfd_open, libc::SYS_pidfd_getfd))),
            attempt("signal", Plain, shell("", &format!("kill -0 {victim} && echo {THROUGH}"))),
            // PTRACE_SEIZE: nothing stops by it.
            attempt("trace", Root, call(libc::SYS_ptrace, &format!(", 0x4206, {victim}, 0, 0"))
                .replace("$e == 1 ||", "$e == 3 || $e == 1 ||")),
            attempt("abstract-socket", Plain, connects(&format!("\"\\0{name}\""))),
            attempt("docker-socket", Plain, connects(&format!(
                "\"{outside}/docker.sock\", \"/run/docker.sock\", \"/var/run/docker.sock\""))),
            attempt("key-ring", Kernel, perl("", &format!(
                "my $i = syscall({0}, 10, -4, my $t = \"user\", my $n = \"{name}\", 0); \
                 if ($i < 0) {{ print \"{ABSENT}\\n\" if $! == 38; exit }} my $b = \"\\0\" x 32; \
                 my $l = syscall({0}, 11, $i, $b, 32); print substr($b, 0, $l) if $l > 0", libc::SYS_keyctl))),
            attempt("shared-memory-segment", Kernel, perl("", &format!(
                "my $i = shmget({segment}, 0, 0); if (!defined $i) {{ print \"{ABSENT}\\n\" if $! == 38; exit }} \
                 shmread($i, my $b, 0, 8); print $b"))),
            attempt("first-process", Plain, shell("head wc", &format!(
                "for f in 1/environ 1/maps {victim}/environ; do [ $(head -c 1 /proc/$f | wc -c) = 1 ] && echo {THROUGH}; done"))),
            attempt("forge-report", Plain, opens(&format!("/proc/1/fd/* /proc/{victim}/fd/*"))),
            attempt("overwrite-helper", Plain, opens(&format!("{devo} /.devo/devo /.devo/ld.so /.devo/lib/* /proc/1/exe"))),
            // Ends by itself, so that a helper that was stopped is seen.
            attempt("stop-helper", Never, shell("", &format!(
                "kill -STOP 1; kill -KILL 1; kill -STOP -1; sleep {marker}")))
                .with(|command| command.timeout = Some(Duration::from_secs(1))),
            attempt("outlive-command", Plain, format!("echo {TRIED}; {}", escape(&marker))),
            attempt("outlive-time-limit", Plain, format!(
                "echo {TRIED}; trap '' TERM INT HUP; {} sleep {marker}; sleep {marker}", escape(&marker)))
                .with(|command| command.timeout = Some(Duration::from_secs(1))),
            attempt("outlive-from-memory", Plain, perl("", &format!(
                "my $f = syscall({}, my $n = \"x\", 0); open(my $m, \">&=\", $f); binmode $m; open(I, \"<\", $^X); binmode I; \
                 local $/; print $m <I>; $m->flush; if (!fork) {{ setpgrp; exit if fork; \
                 exec(\"/proc/self/fd/$f\", \"-e\", \"sleep 1000; {marker}\") }} sleep 1", libc::SYS_memfd_create))
                .replace("perl -e", "perl -MIO::Handle -e")),
            attempt("other-sandbox", Plain, perl("use Socket;", &format!(
                "socket(T, AF_INET, SOCK_STREAM, 0); connect(T, pack_sockaddr_in({met}, inet_aton(\"127.0.0.1\"))) and \
                 print \"{THROUGH}\\n\"; socket(U, AF_UNIX, SOCK_STREAM, 0); connect(U, pack_sockaddr_un(\"\\0{name}-2\")) \
                 and print \"{THROUGH}\\n\"; open(F, \"<\", \"/tmp/{name}-2\") and print <F>")))
                .beside(perl("use Socket;", &format!(
                    "socket(T, AF_INET, SOCK_STREAM, 0); bind(T, pack_sockaddr_in({met}, inet_aton(\"127.0.0.1\"))) && \
                     listen(T, 5) or die; socket(U, AF_UNIX, SOCK_STREAM, 0); bind(U, pack_sockaddr_un(\"\\0{name}-2\")) && \
                     listen(U, 5) or die; open(F, \">\", \"/tmp/{name}-2\") or die; print F \"{THROUGH}\\n\"; close F; \
                     open(R, \">\", \"ready\"); sleep 1000")).replace("perl -e", "exec perl -e")),
            // Network.
            attempt("host-tcp", Plain, bash(format!("exec 3<> /dev/tcp/127.0.0.1/{tcp}"))),
            attempt("host-udp", Plain, bash(format!("echo x > /dev/udp/127.0.0.1/{udp}")).replace("&& echo through", "")),
            attempt("host-ipv6", Plain, bash(format!("exec 3<> /dev/tcp/::1/{tcp_6}"))),
            attempt("host-mapped-address", Plain, bash(format!("exec 3<> /dev/tcp/::ffff:127.0.0.1/{tcp}"))),
            attempt("host-other-address", Plain, bash(format!("exec 3<> /dev/tcp/{far}/{tcp_far}"))),
            attempt("dns-query", Plain, bash(format!("echo data.evil.example > /dev/udp/{far}/{udp_far}"))
                .replace("&& echo through", "")),
            attempt("metadata-and-world", Routed, perl("use Socket;", &format!(
                "for my $a (\"169.254.169.254\", \"192.0.2.1\", \"8.8.8.8\") {{ socket(S, AF_INET, SOCK_DGRAM, 0) or next; \
                 connect(S, pack_sockaddr_in(53, inet_aton($a))) and print \"{THROUGH}\\n\" }}"))),
            attempt("proxy-without-list", Listed("example.org".into()), bash("exec 3<> /dev/tcp/127.0.0.1/3128".into())),
            attempt("proxy-unlisted", Listed(format!("127.0.0.2:{other_web}")), asks_proxy("127.0.0.2", other_web))
                .listing("example.org"),
            attempt("proxy-name-to-host", Listed(format!("127.0.0.1:{web}")), asks_proxy("localhost 127.0.0.1", web))
                .listing(&format!("localhost:{web}")),
            attempt("proxy-odd-address", Listed(format!("127.0.0.1:{web}")), asks_proxy(
                "127.1 2130706433 0x7f.1 0177.0.0.1 0.0.0.0 [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] 127.0.0.1.nip.io \
                 127.0.0.1", web))
                .listing("*.nip.io"),
            attempt("raw-packets", Kernel, socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)),
            attempt("vsock", Kernel, socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
            attempt("kernel-crypto-socket", Kernel, socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
            attempt("device-events", Kernel, socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)),
            // Rights.
            attempt("capabilities", Root, shell("grep", &format!(
                "grep -Eq 'Cap(Prm|Eff|Bnd|Amb|Inh):.*[1-9a-f]' /proc/self/status && echo {THROUGH}"))),
            attempt("set-user-id", Root, format!(
                "[ -x switch ] && echo {TRIED}; ./switch -e 'print \"{THROUGH}\\n\" if $> != $<'; true")),
            attempt("give-file-away", Root, shell("chown touch", &format!("touch f; chown 23456 f && echo {THROUGH}"))),
            attempt("user-namespace", Plain, unshares(libc::CLONE_NEWUSER)),
            attempt("user-namespace-clone3", Plain, perl("", &format!(
                "my $a = pack(\"Q8\", {}, 0, 0, 0, 17, 0, 0, 0); my $r = syscall({}, $a, 64); \
                 syscall({}, 0) if $r == 0; print \"{THROUGH}\\n\" if $r > 0",
                libc::CLONE_NEWUSER, libc::SYS_clone3, libc::SYS_exit_group))),
            attempt("mount-namespace", Root, unshares(libc::CLONE_NEWNS)),
            attempt("enter-namespace", Root, perl("", &format!(
                "for my $p (1, {victim}, \"self\") {{ open(my $f, \"<\", \"/proc/$p/ns/net\") or next; \
                 print \"{THROUGH}\\n\" if syscall({}, fileno($f), 0) == 0 }}", libc::SYS_setns))),
            attempt("mount", Root, shell("mount umount mkdir",
                &format!("mkdir m; mount -t tmpfs none m && echo {THROUGH} && umount m"))),
            attempt("remount", Root, shell("mount touch rm",
                &format!("mount -o remount,rw /; touch /devo-escape && rm /devo-escape && echo {THROUGH}"))),
            attempt("new-mount-calls", Kernel, call(libc::SYS_fsopen, ", my $t = \"tmpfs\", 0")),
            attempt("mount-tree", Kernel, call(libc::SYS_open_tree, ", -100, my $t = \"/\", 1")),
            attempt("leave-root", Root, perl("", &format!(
                "mkdir \"jail\"; chroot(\"jail\") or exit; chdir(\"..\") for 1 .. 30; chroot(\".\"); \
                 open(F, \"<\", \"{outside}/secret\") and print <F>"))),
            attempt("device-file", Root, shell("mknod head wc",
                &format!("mknod d c 1 5 && [ $(head -c 1 d | wc -c) = 1 ] && echo {THROUGH}"))),
            // The kernel.
            attempt("kernel-settings", Root, opens(
                "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sysrq-trigger /proc/sys/vm/drop_caches")),
            attempt("sysfs", Root, opens("/sys/power/state /sys/kernel/mm/transparent_hugepage/enabled \
                /sys/block/*/queue/read_ahead_kb")),
            attempt("cgroup-mount", Root, shell("mount umount mkdir", &format!(
                "mkdir c; mount -t cgroup -o memory none c || mount -t cgroup2 none c && echo {THROUGH} && umount c"))),
            attempt("release-agent", Root, opens("/sys/fs/cgroup/*/release_agent /sys/fs/cgroup/cgroup.subtree_control")),
            attempt("own-control-group", Root, opens(
                "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max \
                 /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs")),
            attempt("bpf", Kernel, call(libc::SYS_bpf, ", 99, 0, 0")),
            attempt("perf-events", Kernel, call(libc::SYS_perf_event_open, ", 0, 0, 0, 0, 0")),
            attempt("user-faults", Kernel, call(libc::SYS_userfaultfd, ", 99")),
            attempt("io-uring", Kernel, call(libc::SYS_io_uring_setup, ", 0, 0")),
            // Arguments that no kernel takes: the machine stays as it is.
            attempt("kexec", Kernel, call(libc::SYS_kexec_load, ", 0, 99, 0, 0xffff")),
            attempt("kernel-module", Kernel, call(libc::SYS_finit_module, ", -1, my $n = \"\", 0")),
            attempt("reboot", Root, call(libc::SYS_reboot, ", 0, 0, 0, 0")),
            attempt("set-clock", Root, call(libc::SYS_clock_settime, ", 99, 0")),
            attempt("kernel-log", Root, call(libc::SYS_syslog, ", 10, 0, 0")),
            attempt("type-into-terminal", Plain, call(libc::SYS_ioctl, ", 0, 0x5412, 0")),
            // Limits.
            // Held for a while: where there is no control group, memory is looked at from time to time.
            attempt("memory", Plain, perl("", &format!(
                "my $n = 150_000_000; my $held = \"x\" x $n; sleep 2; print \"{THROUGH}\\n\" if length($held) == $n")))
                .with(|command| command.limits.memory_bytes = 64 << 20),
            attempt("processes", Plain, perl("", &format!(
                "my @p; for (1 .. 200) {{ my $p = fork; last unless defined $p; if (!$p) {{ sleep 100; exit }} push @p, $p }} \
                 kill 9, @p; print \"{THROUGH}\\n\" if @p == 200")))
                .with(|command| command.limits.pids = 64),
            attempt("file-size", Plain, shell("head wc",
                &format!("head -c 20000000 /dev/zero > big; [ $(wc -c < big) = 20000000 ] && echo {THROUGH}")))
                .with(|command| command.limits.file_bytes = 1 << 20),
            attempt("fill-private-folders", Plain, shell("head wc rm mkdir", &format!(
                "mkdir -p $HOME; for d in /tmp /dev/shm; do f=$d/{name}; head -c 20000000 /dev/zero > $f; \
                 [ $(wc -c < $f) = 20000000 ] && echo {THROUGH}; rm $f; done")))
                .with(|command| command.limits.scratch_bytes = 4 << 20),
            attempt("fill-disk", Plain, shell("sleep", &format!("sleep 2; echo {THROUGH}")))
                .with(|command| command.limits.disk_free_bytes = u64::MAX),
            attempt("raise-limits", Plain, shell("", &format!("( ulimit -n 5000 ) && echo {THROUGH}"))),
            attempt("raise-priority", Root, perl("", &format!("print \"{THROUGH}\\n\" if setpriority(0, 0, -5)"))),
        ]
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.shared);
        let _ = fs::remove_file(&self.met);
        let _ = std::process::Command::new("perl").args(["-e", &self.undo]).status();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("a Linux machine").uid() == 0
}

/// An address of this machine that is not its loopback; where there is none, its loopback's second.
fn an_address() -> String {
    let text = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut last = "";
    for line in text.lines() {
        if line.contains("/32 host LOCAL") && !last.starts_with("127.") {
            return last.to_owned();
        }
        last = line.split_once("|-- ").map_or(last, |(_, address)| address);
    }
    "127.0.0.3".to_owned()
}

/// Whether packets could leave this machine. Nothing is sent.
fn has_a_route() -> bool {
    UdpSocket::bind("0.0.0.0:0").is_ok_and(|socket| socket.connect("8.8.8.8:53").is_ok())
}

fn says(said: &str, word: &str) -> bool {
    said.lines().any(|line| line == word)
}

/// Tries all of them; none may get through, and each that can be shown to work without the sandbox must be.
async fn none_gets_out_of(sandboxed: &dyn Sandbox, other: &dyn Sandbox, ground: &Ground) {
    let (mut wrong, mut unproven) = (Vec::new(), Vec::new());
    for attempt in &ground.attempts {
        let (name, command) = (attempt.name, attempt.command(&ground.place));
        let works = match &attempt.proof {
            Proof::Never => None,
            Proof::Root | Proof::Kernel if !is_root() => None,
            Proof::Routed if !has_a_route() => None,
            Proof::Listed(entry) => {
                let listed = Command { network: allow(std::slice::from_ref(entry)), ..command.clone() };
                Some(says(&exec(sandboxed, &listed).await.stdout.text(), THROUGH))
            }
            proof => {
                let said = ground.both_plainly(attempt, &command);
                let absent = matches!(proof, Proof::Kernel) && says(&said, ABSENT);
                (!absent).then(|| says(&said, THROUGH) || ground.noticed().is_some())
            }
        };
        if works.is_none() {
            unproven.push(name);
        }
        ground.settle();
        if works == Some(false) {
            wrong.push(format!("{name}: does not work where nothing stops it, and proves nothing"));
        }
        let run = async {
            let Some(script) = &attempt.peer else { return exec(sandboxed, &command).await };
            let (peer, ready) = (ground.beside.command(script), ground.beside.workspace.join("ready"));
            let run = async {
                let waited = tokio::task::spawn_blocking(move || wait_until("the peer", HANGS, || ready.exists()));
                waited.await.expect("it started");
                exec(sandboxed, &command).await
            };
            tokio::select! {
                ended = exec(other, &peer) => panic!("the peer ended by itself: {ended:?}"),
                ended = run => ended,
            }
        };
        let ended = tokio::time::timeout(HANGS, run).await.expect(name);
        let said = ended.stdout.text();
        // The disk may be too full from the first instant on.
        if !says(&said, TRIED) && !ended.limits_hit.contains(&LimitHit::Disk) {
            wrong.push(format!("{name}: was not tried: {said} {}", ended.stderr.text()));
        }
        if says(&said, THROUGH) {
            wrong.push(format!("{name}: got through"));
        }
        wrong.extend(ground.noticed().map(|what| format!("{name}: {what}")));
        ground.settle();
    }
    println!("not shown to work without a sandbox on this machine: {}", unproven.join(" "));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn settings_for(ground: &Ground) -> Settings {
    Settings { supervisor: Supervisor::at(&ground.devo), hide: vec![ground.place.outside.join("home")], ..settings() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub async fn none_gets_out_of_bubblewrap() {
    let ground = Ground::new();
    let bubblewrap = open(SandboxKind::Bubblewrap, &settings_for(&ground)).expect("it can be made");
    let other = open(SandboxKind::Bubblewrap, &settings_for(&ground)).expect("it can be made");
    none_gets_out_of(&*bubblewrap, &*other, &ground).await;
}

async fn none_gets_out_of_a_container(ground: &Ground) {
    let make = || {
        let own = Some(docker::with_tools());
        open(SandboxKind::Docker, &Settings { docker: own, ..settings_for(ground) }).expect("it can be made")
    };
    let (docker, other) = (make(), make());
    none_gets_out_of(&*docker, &*other, ground).await;
    docker.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_gets_out_of_docker() {
    docker::images().await;
    let ground = Ground::new();
    none_gets_out_of_a_container(&ground).await;
}

/// Commands are whoever owns the workspace: here it is not the engine's own user, where this test is root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_gets_out_of_docker_as_somebody_else() {
    docker::images().await;
    let ground = Ground::new();
    if is_root() {
        std::os::unix::fs::chown(&ground.place.workspace, Some(12345), Some(12345)).expect("root may");
    }
    none_gets_out_of_a_container(&ground).await;
}

/// The page is for people; here it is held to what is tried.
#[test]
fn the_page_names_every_attempt_and_no_other() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).expect("it is there");
    let (_, table) = page.split_once("## Escape attempts").expect("a heading");
    let table = table.split("\n## ").next().expect("there is always a first");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut named = BTreeSet::new();
    for row in rows.map(cells) {
        assert!(row.len() == 4 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        let name = row[0].trim_matches('`').to_owned();
        assert!(named.insert(name), "twice: {row:?}");
    }
    let ground = Ground::new();
    let tried: BTreeSet<String> = ground.attempts.iter().map(|attempt| attempt.name.to_owned()).collect();
    assert_eq!(tried.len(), ground.attempts.len(), "every name is there once");
    assert!(tried.len() >= 25);
    assert_eq!(named, tried, "docs/security.md and the table of attempts differ");
}
