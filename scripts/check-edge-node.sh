#!/usr/bin/env bash
# edge-node stays small: no HTTP server, no exporter, no database, no wasmtime, no Kubernetes client. Its library knows
# no runtime: src/runtimes.rs alone names them. And it builds by itself, as it is shipped: the whole workspace at once
# gives its libraries more features than it asks for.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$(cargo tree --package edge-node --edges normal,features --prefix none --target all)
fail() {
    printf '%s\n' "$1" >&2
    exit 1
}

for crate in axum prometheus opentelemetry-otlp sqlx libsqlite3-sys kube wasmtime; do
    if grep --quiet --extended-regexp "^$crate v" <<<"$tree"; then
        fail "edge-node links $crate; find the way with: cargo tree --package edge-node --edges normal --invert $crate"
    fi
done
# The HTTP client needs hyper and hyper-util; their servers nobody does.
for crate in hyper hyper-util; do
    if grep --quiet "^$crate feature \"server\"" <<<"$tree"; then
        fail "edge-node links the server of $crate"
    fi
done

without_runtimes=$(cargo tree --package edge-node --no-default-features --edges normal --prefix none --target all)
if grep --quiet --extended-regexp '^runtime-(docker|wasm|null)|^bollard' <<<"$without_runtimes"; then
    fail "the library edge-node depends on a runtime"
fi
if named=$(grep --files-with-matches --recursive 'runtime_docker\|runtime_wasm' edge-node/src | grep --invert-match '^edge-node/src/runtimes.rs$'); then
    fail "only edge-node/src/runtimes.rs may name a runtime, not $named"
fi

cargo check --quiet --package edge-node
