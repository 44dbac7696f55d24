#!/usr/bin/env bash
# Passes every test: installs what a bare Debian machine with the Rust toolchain lacks, then checks format, lints,
# tests, documentation and dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
say() { printf '\n== %s\n' "$*"; }

say "what the tests need"
missing=()
for pair in git:git bwrap:bubblewrap cc:gcc python3:python3; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
git --version
bwrap --version

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
