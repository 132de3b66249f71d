#!/usr/bin/env bash
# No circles: neither among the crates, nor among the modules of a crate. `scripts/graph.rs` says what counts as one.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(mktemp --directory)
trap 'rm -r "$built"' EXIT
rustfmt --check --edition 2024 scripts/graph.rs
rustc --edition 2024 --test -o "$built/tests" scripts/graph.rs
"$built/tests" --quiet >"$built/log" || { cat "$built/log" >&2; exit 1; }
rustc --edition 2024 -o "$built/graph" scripts/graph.rs
cargo tree --workspace --edges normal,build,dev --depth 1 --prefix depth --format ' {p}' >"$built/tree"
"$built/graph" "$built/tree"
