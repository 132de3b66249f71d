#!/usr/bin/env bash
# aws-lc-rs is the only TLS provider: with a second one in the tree rustls refuses to choose, at run time.
set -euo pipefail
for crate in ring openssl-sys; do
    if tree=$(cargo tree --workspace --target all --invert "$crate" 2>/dev/null) && [ -n "$tree" ]; then
        printf 'a second TLS provider is in the tree:\n%s\n' "$tree" >&2
        exit 1
    fi
done
