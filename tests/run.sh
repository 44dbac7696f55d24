#!/usr/bin/env bash
# Passes every test: installs what a bare Debian machine with the Rust toolchain lacks, then checks format, lints,
# tests, documentation and dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
say() { printf '\n== %s\n' "$*"; }

say "what the tests need"
missing=()
for pair in git:git bwrap:bubblewrap cc:gcc python3:python3 dockerd:docker.io iptables:iptables busybox:busybox-static; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# Not on an ordinary user's PATH.
[ -x /usr/sbin/sshd ] || missing+=(openssh-server)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
git --version
bwrap --version

say "a docker daemon"
docker_answers() {
    python3 - "${DOCKER_HOST:-unix:///var/run/docker.sock}" 2>/dev/null <<'PING'
import socket, sys
daemon = socket.socket(socket.AF_UNIX)
daemon.settimeout(5)
daemon.connect(sys.argv[1].removeprefix("unix://"))
daemon.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
sys.exit(b" 200 " not in daemon.recv(100))
PING
}
if ! docker_answers; then
    if ! grep -q ' cgroup2\? ' /proc/mounts; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cgroupfs-mount
        as_root cgroupfs-mount
    fi
    scratch=$(mktemp -d)
    # Only one that is started here is stopped here.
    stop_docker() {
        as_root sh -c "test ! -s $scratch/pid || kill \"\$(cat $scratch/pid)\"" || true
        wait || true
        rm -rf "$scratch"
    }
    trap stop_docker EXIT
    as_root dockerd --group "$(id -gn)" --pidfile "$scratch/pid" >"$scratch/log" 2>&1 &
    for _ in $(seq 120); do
        docker_answers && break
        sleep 0.5
    done
    docker_answers || { echo "the docker daemon does not start, or this user may not use it:"; tail -n 30 "$scratch/log"; exit 1; }
fi
echo "it answers"

say "format"
cargo fmt --check

say "lints"
cargo clippy --locked --all-targets -- -D warnings

say "tests"
cargo test --locked

say "pages in a browser"
if [ ! -x /usr/bin/chromium ] || ! python3 -c 'import ensurepip' 2>/dev/null; then
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium python3-venv
fi
if [ ! -x target/browser/bin/python ]; then
    python3 -m venv target/browser
fi
target/browser/bin/python -m pip install -q --disable-pip-version-check -r tests/browser/requirements.txt
cargo build --locked
target/browser/bin/python tests/browser/run.py

say "documentation"
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --quiet

say "dependencies: licences, duplicates, sources"
if ! command -v cargo-deny >/dev/null; then
    cargo install cargo-deny --locked --version "$(cat .cargo-deny-version)"
fi
cargo deny --all-features check licenses bans sources

say "all green"
