#!/usr/bin/env bash
# Tests ask no crate for features that the programs do not ask for. Cargo takes the features of a build together, so it would
# build such a crate, and all that use it, once for `cargo build`, `cargo doc` and `cargo clippy --lib`, and once more for tests.
# Where a test needs such a feature, tests/Cargo.toml names the crate under [dependencies].
set -euo pipefail
cd "$(dirname "$0")/.."

features() { # edges
    cargo tree --workspace --edges "$1" --prefix none --format '{p} [{f}]' | sed 's/ (\*)$//; /^$/d' | sort --unique
}
programs=$(features normal,build)
tests=$(features normal,build,dev)
# Crates that only tests use are no concern.
other=$(comm -13 <(echo "$programs") <(echo "$tests") | grep --fixed-strings --file <(echo "$programs" | sed 's/\[.*/[/') || true)
if [ -n "$other" ]; then
    printf 'tests have these crates built with other features than the programs have:\n%s\n' "$other" >&2
    exit 1
fi
