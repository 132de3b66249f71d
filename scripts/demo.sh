#!/usr/bin/env bash
# From nothing to an answering application and its audit trail, in a folder that is removed again.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${EDGEWRIGHT_PROGRAMS:-}" ]; then
    data=$(mktemp -d)
    trap 'rm -rf "$data"' EXIT
    target/debug/edgewright --log error,async_nats=off up --data "$data" --host 127.0.77.1 --then scripts/demo.sh
    exit
fi

# From here on `edgewright up` has everything running, and calls this script.
edgectl=$EDGEWRIGHT_PROGRAMS/edgectl
title() { printf '\n\033[1m%s\033[0m\n' "$*"; }

title "The order"
"$edgectl" co list orders

title "The commit that it is, signed"
git -C "$EDGEWRIGHT_DATA/repositories/default/fleet.git" log --show-signature -1 main -- assignments

title "What follows from it for the site, signed"
git -C "$EDGEWRIGHT_DATA/repositories/default/clients/plant.git" log --show-signature -1 --stat desired

title "The status"
"$edgectl" co list nodes
"$edgectl" co list deployments
"$edgectl" lo status --site plant

title "The application's answers"
for address in 127.0.77.2 127.0.77.3; do
    curl --silent --show-error --fail --max-time 10 "http://$address:8080/"
done

title "Containers"
if ! "$edgectl" co list nodes -o json | grep --quiet '"compose"'; then
    echo "Not run: no node here has Docker Engine and Compose (docs/operations.md, \"Containers\")."
elif ! [ -x /bin/busybox ]; then
    echo "Not run: the example's image is made of /bin/busybox (Debian's package busybox-static)."
else
    app=$(mktemp -d)
    trap 'rm -rf "$app"' EXIT
    cp -r examples/hello-compose/. "$app"
    "$app/make-image.sh"
    "$edgectl" co add app "$app"
    "$edgectl" co deploy hello-compose@1.0.0 --name pages --to plant/press --wait
    curl --silent --show-error --fail --max-time 10 --retry 5 --retry-connrefused http://127.0.77.2:8088/
    "$edgectl" co remove pages --delete-volumes --wait
fi
