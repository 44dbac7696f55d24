//! What `bubblewrap` takes from a command beyond its namespaces: system calls, writes, and reach within the kernel.

use super::*;

/// The number that the call fails with, 0 if it does not.
fn fails_with(call: i64, arguments: &str) -> String {
    format!("perl -e '$! = 0; my $r = syscall({call}{arguments}); print $r == -1 ? $! + 0 : 0'")
}

fn socket_fails_with(family: i32, kind: i32, protocol: i32) -> String {
    fails_with(libc::SYS_socket, &format!(", {family}, {kind}, {protocol}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub async fn calls_that_no_test_suite_makes_are_denied() {
    let place = Place::new();
    let (host, bubblewrap) = (sandbox("host"), sandbox("bubblewrap"));
    let unshare = |flag: i32| fails_with(libc::SYS_unshare, &format!(", {flag}"));
    let clone = |flag: i32| fails_with(libc::SYS_clone, &format!(", {flag} | 17, 0, 0, 0, 0"));
    // What it gives on the host: 0, or a number that says that the kernel did look; nothing where privileges decide.
    let calls = [
        (fails_with(libc::SYS_keyctl, ", 0, -3, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_add_key, ", 0, 0, 0, 0, -3"), libc::EPERM, true),
        (fails_with(libc::SYS_request_key, ", 0, 0, 0, 0"), libc::EPERM, true),
        (fails_with(libc::SYS_open_tree, ", -100, 0, 0"), libc::EPERM, true),
        (fails_with(libc::SYS_fsopen, ", 0, 99"), libc::EPERM, false),
        (fails_with(libc::SYS_mount, ", 0, 0, 0, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_setns, ", 99, 0"), libc::EPERM, true),
        (fails_with(libc::SYS_bpf, ", 99, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_perf_event_open, ", 0, 0, 0, 0, 0"), libc::EPERM, true),
        (fails_with(libc::SYS_userfaultfd, ", 99"), libc::EPERM, true),
        (fails_with(libc::SYS_open_by_handle_at, ", -1, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_finit_module, ", -1, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_kexec_load, ", 0, 0, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_syslog, ", 10, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_adjtimex, ", 0"), libc::EPERM, true),
        (fails_with(libc::SYS_clock_settime, ", 99, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_quotactl, ", 99, 0, 0, 0"), libc::EPERM, false),
        (fails_with(libc::SYS_acct, ", 1"), libc::EPERM, false),
        (fails_with(libc::SYS_personality, ", 0x0400000"), libc::EPERM, true),
        (fails_with(libc::SYS_clone3, ", 0, 0"), libc::ENOSYS, true),
        (fails_with(libc::SYS_io_uring_setup, ", 0, 0"), libc::ENOSYS, false),
        (fails_with(libc::SYS_ioctl, ", 0, 0x5412, 0"), libc::EPERM, true),
        (fails_with(libc::SYS_ioctl, ", 0, 0x541c, 0"), libc::EPERM, true),
        (unshare(libc::CLONE_NEWUSER), libc::EPERM, false),
        (unshare(libc::CLONE_NEWNET), libc::EPERM, false),
        (unshare(libc::CLONE_NEWNS), libc::EPERM, false),
        (unshare(0x80), libc::EPERM, false),
        (clone(libc::CLONE_NEWUSER), libc::EPERM, false),
        (clone(libc::CLONE_NEWPID), libc::EPERM, false),
        (socket_fails_with(libc::AF_ALG, libc::SOCK_SEQPACKET, 0), libc::EAFNOSUPPORT, false),
        (socket_fails_with(libc::AF_VSOCK, libc::SOCK_STREAM, 0), libc::EAFNOSUPPORT, false),
        (socket_fails_with(libc::AF_PACKET, libc::SOCK_RAW, 0), libc::EAFNOSUPPORT, false),
        (socket_fails_with(libc::AF_BLUETOOTH, libc::SOCK_RAW, 1), libc::EAFNOSUPPORT, false),
        (socket_fails_with(libc::AF_NETLINK, libc::SOCK_RAW, 15), libc::EAFNOSUPPORT, true),
        (socket_fails_with(99, libc::SOCK_STREAM, 0), libc::EAFNOSUPPORT, false),
        // What stays as it is.
        (socket_fails_with(libc::AF_UNIX, libc::SOCK_STREAM, 0), 0, false),
        (socket_fails_with(libc::AF_INET, libc::SOCK_STREAM, 0), 0, false),
        (socket_fails_with(libc::AF_INET6, libc::SOCK_DGRAM, 0), 0, false),
        (socket_fails_with(libc::AF_NETLINK, libc::SOCK_RAW, 0), 0, false),
        (fails_with(libc::SYS_personality, ", 0x40000"), 0, false),
        (fails_with(libc::SYS_personality, ", 0xffffffff"), 0, false),
        (unshare(libc::CLONE_FILES), 0, false),
    ];
    for (script, wanted, differs) in &calls {
        let command = place.command(script);
        assert_eq!(stdout(&*bubblewrap, &command).await, wanted.to_string(), "{script}");
        if *differs {
            assert_ne!(stdout(&*host, &command).await, wanted.to_string(), "{script} proves nothing on this kernel");
        }
    }
    let filters = stdout(&*bubblewrap, &place.command("grep Seccomp: /proc/self/status")).await;
    assert_eq!(filters, "Seccomp:\t2\n");
}

/// Calls of the other ABI have other numbers: where the kernel has it, they must not pass by the filter. A kernel without
/// it would say `ENOSYS`.
#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_abi_is_no_way_around() {
    let place = Place::new();
    for call in [libc::SYS_keyctl, libc::SYS_getpid] {
        let script = fails_with(0x4000_0000 + call, ", 0, -3, 0");
        assert_eq!(stdout(&*sandbox("bubblewrap"), &place.command(&script)).await, libc::EPERM.to_string());
    }
}

/// The sandbox's own first process is not the command's: it must neither be looked into nor be stopped by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub async fn a_command_reaches_its_own_processes_and_no_other() {
    let place = Place::new();
    let bubblewrap = sandbox("bubblewrap");
    for (script, needs) in [
        ("readlink /proc/1/exe", "Landlock"),
        ("exec 3< /proc/1/exe", "Landlock"),
        ("cat /proc/1/environ", "Landlock"),
        ("readlink /proc/1/fd/1", "Landlock"),
        ("ls /proc/1/root/", "Landlock"),
        ("kill -0 1", "Landlock of Linux 6.12"),
        ("kill -STOP 1", "Landlock of Linux 6.12"),
    ] {
        let finished = exec(&*bubblewrap, &place.command(script)).await;
        assert!(!finished.exit.is_success(), "`{script}` went through; it is {needs} that keeps it");
    }
    // Among themselves nothing is different.
    let own = "sleep 1000 & kill -0 $! && readlink /proc/$!/exe && kill $!; wait $!; [ $? = 143 ]";
    stdout(&*bubblewrap, &place.command(own)).await;
    let server = "use Socket; my $a = pack_sockaddr_un(\"\\0own\"); socket(S, AF_UNIX, SOCK_STREAM, 0) or exit 2; \
                  bind(S, $a) && listen(S, 1) or exit 3; my $p = fork; if (!$p) { socket(C, AF_UNIX, SOCK_STREAM, 0); \
                  connect(C, $a) or exit 4; exit 0 } accept(T, S) or exit 5; waitpid($p, 0); exit $? >> 8";
    stdout(&*bubblewrap, &place.command(&format!("perl -e '{server}'"))).await;
}

/// The host's network brings the host's abstract sockets: dbus, X11, and whatever else has no file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abstract_sockets_stay_outside_with_any_network() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let place = Place::new();
    let name = format!("devo-test-{}", fastrand::u64(..));
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _listener = UnixListener::bind_addr(&address).expect("a socket");
    let connect = format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) or exit 2; connect(S, pack_sockaddr_un(\"\\0{name}\")) or \
         exit 3'"
    );
    let command = Command { network: Network::Full, ..place.command(&connect) };
    assert_eq!(exec(&*sandbox("host"), &command).await.exit, Exit::Code(0), "it must be open on the host");
    let exit = exec(&*sandbox("bubblewrap"), &command).await.exit;
    assert_eq!(exit, Exit::Code(3), "it is Landlock of Linux 6.12 that closes it");
}

/// The inner wall by itself, where nothing that it needs is there: it says so, and the command does not start.
#[test]
fn without_its_walls_a_command_does_not_start() {
    let place = Place::new();
    let (told, ran) = (place.outside.join("told"), place.outside.join("ran"));
    for (proxied, words) in [("alone", "Landlock could not be set up"), ("proxied", "the way to the proxy")] {
        let enter = format!(
            "exec 7> {}; exec {} sandbox-enter 7 10000 {proxied} 'touch {}'",
            told.display(),
            env!("CARGO_BIN_EXE_devo"),
            ran.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &enter])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("sh starts");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = fs::read_to_string(&told).expect("it was made");
        assert!(told.starts_with("{\"refused\":") && told.contains(words), "{told}");
        assert!(!ran.exists());
    }
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_devo")).arg("sandbox-enter").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no command for people"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_inner_wall_is_an_error_with_its_words() {
    let place = Place::new();
    let mut settings = settings();
    // Covered, the shell cannot be started.
    settings.hide = vec![Path::new("/bin/sh").canonicalize().expect("it exists")];
    let bubblewrap = open(SandboxKind::Bubblewrap, &settings).expect("it can be made");
    let error = bubblewrap.exec(&place.command("true"), &(), &CancellationToken::new()).await.expect_err("no shell");
    assert!(matches!(&error, SandboxError::Setup { message } if message.contains("/bin/sh")), "{error}");
}

/// Real programs that lean on what is near to the denied: threads, semaphores, terminals, debuggers, renames and links
/// between folders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn toolchains_do_not_notice() {
    let place = Place::new();
    let tools = settings().toolchains;
    let on_path = |tool: &str| tools.path.iter().any(|folder| folder.join(tool).is_file());
    let mut scripts = vec![
        "git init -q g && cd g && git config user.email a@b && git config user.name n && seq 20000 > f && git add f && \
         git commit -qm 1 && git gc -q && git clone -q . ../copy && git -C ../copy fsck",
        "mkdir -p a b && echo x > a/f && mv a/f b/f && ln b/f a/g && cp -a b c && rm -r a b c",
        "perl -e 'use Fcntl; open(F, \"+>\", undef) or die; truncate(F, 10) or die; print -s F'",
        "printf '#include <pthread.h>\\nvoid *f(void *p) { return p; }\\nint main(void) { pthread_t t; return \
         pthread_create(&t, 0, f, 0) || pthread_join(t, 0); }' > t.c && cc -pthread t.c -o t && ./t",
        "printf 'int main(void) { return 0; }' > s.c && cc -fsanitize=address,undefined s.c -o s && ./s",
        "dd if=/dev/urandom of=/dev/null bs=1k count=1 2> /dev/null; echo x > /dev/stdout; echo y > /dev/stderr",
        "mkfifo pipe && (echo x > pipe &) && cat pipe",
    ];
    let python = "python3 -c 'import multiprocessing as m, os, pty, tempfile, subprocess, socket, threading\n\
                  with m.get_context(\"spawn\").Pool(2) as p: assert p.map(abs, [-1, 2]) == [1, 2]\n\
                  q = m.Queue(); q.put(1); assert q.get() == 1\n\
                  assert pty.spawn([\"true\"]) == 0\n\
                  a, b = socket.socketpair(); a.send(b\"x\"); assert b.recv(1) == b\"x\"\n\
                  s = socket.create_server((\"127.0.0.1\", 0)); socket.create_connection(s.getsockname())\n\
                  socket.getaddrinfo(\"localhost\", 80)\n\
                  subprocess.run([\"true\"], check=True, start_new_session=True)'";
    for (tool, script) in [
        ("python3", python),
        (
            "node",
            "node -e 'const {Worker} = require(\"worker_threads\"); new Worker(\"process.exit(0)\", {eval: true}); \
                  require(\"child_process\").execSync(\"true\"); require(\"http\").createServer().listen(0, \
                  \"127.0.0.1\", function() { this.close() })'",
        ),
        (
            "go",
            "printf 'package main\\nfunc main() { c := make(chan int); go func() { c <- 1 }(); <-c }' > m.go && go run m.go",
        ),
        (
            "javac",
            "printf 'class M { public static void main(String[] a) { new Thread(() -> {}).start(); } }' > M.java && \
                   javac M.java && java M",
        ),
        ("gdb", "printf 'int main(void) { return 3; }' > d.c && cc -g d.c -o d && gdb -batch -ex run ./d"),
        ("strace", "strace -f -o trace sh -c 'true & wait' && grep -q exit_group trace"),
    ] {
        if on_path(tool) {
            scripts.push(script);
        }
    }
    for script in scripts {
        let finished = exec(&*sandbox("bubblewrap"), &place.command(script)).await;
        assert_eq!(finished.exit, Exit::Code(0), "{script}\n{}\n{}", finished.stdout.text(), finished.stderr.text());
    }
}
