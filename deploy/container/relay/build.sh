#!/bin/sh
# Puts a built postern-relay and the libraries that it names into an image, without any registry.
#
# Usage: build.sh PROGRAM ARCHIVE      ARCHIVE becomes an OCI archive: `podman load --input ARCHIVE`
#
# Needs buildah (Debian: apt-get install buildah). Nothing is downloaded, no layer of anybody else's is beneath it, and the
# stores of images on this machine are left alone. `cargo xtask image` builds the program and calls this.
set -eu

[ $# -eq 2 ] || { echo "usage: $0 PROGRAM ARCHIVE" >&2; exit 2; }
program=$1 archive=$2
command -v buildah >/dev/null || { echo "error: no buildah here: apt-get install buildah" >&2; exit 1; }
[ -x "$program" ] || { echo "error: $program is not built: cargo xtask image" >&2; exit 1; }

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
root=$work/image
build() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp" "$root/var/lib" "$root/run" "$work/empty"
install -m 0755 "$program" "$root/usr/bin/postern-relay"
strip "$root/usr/bin/postern-relay" 2>/dev/null || true
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 0755 "$library" "$root$library"
done
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi
echo 'postern-relay:x:65532:65532::/var/lib/postern-relay:/sbin/nologin' >"$root/etc/passwd"
echo 'postern-relay:x:65532:' >"$root/etc/group"
chmod 1777 "$root/tmp"

container=$(build from scratch)
build copy --quiet --chown 0:0 "$container" "$root" / >/dev/null
for folder in var/lib/postern-relay run/postern-relay; do
    build copy --quiet --chown 65532:65532 "$container" "$work/empty" "/$folder" >/dev/null
done
build config \
    --user 65532:65532 --workingdir / --stop-signal SIGTERM \
    --entrypoint '["/usr/bin/postern-relay"]' --cmd serve \
    --port 3478/udp --port 3478/tcp --port 5349/tcp --port 9462/tcp \
    --volume /var/lib/postern-relay \
    --label org.opencontainers.image.title=postern-relay \
    --label org.opencontainers.image.description='STUN and TURN server of Postern' \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --label org.opencontainers.image.version="$("$program" --version | cut -d' ' -f2)" \
    "$container"
mkdir -p "$(dirname "$archive")"
rm -f "$archive"
build commit --quiet --rm "$container" "oci-archive:$archive:postern-relay" >/dev/null
echo "$archive"
