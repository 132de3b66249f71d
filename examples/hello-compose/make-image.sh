#!/usr/bin/env bash
# Makes the image of this example as an image layout in images/, out of a static busybox and without Docker: make-image.sh [BUSYBOX]
set -euo pipefail
cd "$(dirname "$0")"
busybox=${1:-/bin/busybox}
name=hello-compose:1.0.0

layout=images/hello-compose
blobs=$layout/blobs/sha256
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$blobs" "$root/bin"

install -m 755 "$busybox" "$root/bin/busybox"
for applet in sh date echo httpd mv sleep true wget; do ln -s busybox "$root/bin/$applet"; done
layer=$root/layer.tar
tar --create --file "$layer" --directory "$root" --sort name --mtime @0 --owner 0 --group 0 --numeric-owner bin

# put FILE: puts a file under its digest, and says the digest.
put() {
    local digest
    digest=$(sha256sum "$1" | cut -d ' ' -f 1)
    cp "$1" "$blobs/$digest"
    printf %s "$digest"
}
size() { stat --format %s "$1"; }

case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    armv7l) architecture=arm ;;
    *) architecture=$(uname -m) ;;
esac
layer_digest=$(put "$layer")
printf '{"architecture":"%s","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$layer_digest" > "$root/config"
manifest=application/vnd.oci.image.manifest.v1+json
printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    "$manifest" "$(put "$root/config")" "$(size "$root/config")" "$layer_digest" "$(size "$layer")" > "$root/manifest"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"%s","digest":"sha256:%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"%s"}}]}' \
    "$manifest" "$(put "$root/manifest")" "$(size "$root/manifest")" "$name" > "$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"
echo "$name is in $layout"
