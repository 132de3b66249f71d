#!/usr/bin/env bash
# Runs every test, two test programs at a time: they wait for processes, disks and clocks more than they compute.
#
# Two runs of `cargo test`, called lanes, pass over all test programs side by side, and whichever comes to a program first runs
# it (scripts/turn.sh). The first lane begins with the examples in the documentation. A failure ends neither lane.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --no-run --quiet
EDGEWRIGHT_TURNS=$(mktemp --directory)
export EDGEWRIGHT_TURNS
trap 'rm -r "$EDGEWRIGHT_TURNS"' EXIT

lane() { # name
    local log=$EDGEWRIGHT_TURNS/$1.log
    # Cargo says of each program that it runs, also of those that the other lane has run.
    if ! cargo test --workspace --tests --no-fail-fast --config "target.'cfg(unix)'.runner='$PWD/scripts/turn.sh'" 2>"$log"; then
        grep --after-context 100 '^error' "$log" >&2 || cat "$log" >&2
        return 1
    fi
}

first() {
    local failed=0
    cargo test --workspace --doc --quiet || failed=1
    lane first || failed=1
    return $failed
}

first &
lanes=($!)
lane second &
lanes+=($!)
failed=0
for lane in "${lanes[@]}"; do
    wait "$lane" || failed=1
done
exit $failed
