#!/usr/bin/env bash
# Builds docker-compose from its Go module, which the Go tool checks against its checksum database. Only tests and measurements
# of containers need it, and say that they were not run without it.
set -euo pipefail
cd "$(dirname "$0")/.."

COMPOSE_VERSION=2.40.3
COMPOSE=.tools/bin/docker-compose

compose_is_right() { [ -x "$1" ] && [ "$("$1" version --short 2>/dev/null)" = "$COMPOSE_VERSION" ]; }

if ((EUID == 0)) && command -v go >/dev/null && ! compose_is_right "$COMPOSE"; then
    build=$(mktemp -d)
    # The main module of Compose excludes versions, so `go install` refuses it: it is a tool of a module of our own.
    if (
        cd "$build"
        go mod init edgewright.local/tools && go get -tool "github.com/docker/compose/v2/cmd@v$COMPOSE_VERSION" &&
            go build -trimpath -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$COMPOSE_VERSION" \
                -o docker-compose github.com/docker/compose/v2/cmd
    ) >"$build/log" 2>&1; then
        install -D -m 755 "$build/docker-compose" "$COMPOSE"
        rm -rf "$build"
        compose_is_right "$COMPOSE" || { printf 'compose: %s is not version %s\n' "$COMPOSE" "$COMPOSE_VERSION" >&2; exit 1; }
    else
        printf 'compose: docker-compose could not be built (%s): tests of containers are not run\n' "$build/log" >&2
    fi
fi
