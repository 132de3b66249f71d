#!/usr/bin/env bash
# Runs a test program, unless the other lane of scripts/test.sh has begun with it: Cargo calls this in the place of each program.
# What a program writes comes in one piece, when it has ended; before that stands that it runs.
set -euo pipefail

name=${1##*/} # ends with a number that no other program has
turn=$EDGEWRIGHT_TURNS/$name
if ! refused=$(mkdir "$turn" 2>&1); then
    [ -d "$turn" ] && exit 0
    printf '%s\n' "$refused" >&2
    exit 1
fi

printf 'running %s of %s\n' "${name%-*}" "$CARGO_PKG_NAME"
status=0
"$@" >"$turn/log" 2>&1 || status=$?
(
    flock 9
    printf '\n%s of %s, in %s s:\n' "${name%-*}" "$CARGO_PKG_NAME" "$SECONDS"
    cat "$turn/log"
) 9>"$EDGEWRIGHT_TURNS/lock"
exit "$status"
