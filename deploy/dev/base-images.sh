#!/usr/bin/env bash
# The two base images of the Dockerfile, where no registry can be reached: from packages of Debian and the Rust of this machine. As root.
#
#   base-images.sh [MIRROR]     makes localhost/holdfast-builder and localhost/holdfast-runtime; MIRROR: that of this machine, unless given
#
# The builder is Debian 12 with compilers, and the toolchain of rust-toolchain.toml. The runtime is the files of five packages in an
# empty root: no shell, no package manager, nothing that is set-uid.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
suite=bookworm
compilers=build-essential,ca-certificates,clang,libclang-dev,libssl-dev,pkg-config
packages=(base-files ca-certificates libc6 libgcc-s1 libssl3)
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

fail() { echo "base-images.sh: $*" >&2; exit 1; }
[[ $EUID -eq 0 ]] || fail "only root can make them"
for program in debootstrap buildah; do
    command -v "$program" >/dev/null || fail "$program is missing: apt-get install debootstrap buildah"
done
mirror=${1:-$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null || true; } |
    sed -nE 's/^(URIs:|deb( \[[^]]*\])?) *(https?:[^ ]*\/debian)\/?( .*)?$/\3/p' | head -n 1)}
[[ -n $mirror ]] || fail "say where Debian is: base-images.sh MIRROR"

work=$(mktemp -d "${TMPDIR:-/var/tmp}/holdfast-base.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
builder=$work/builder runtime=$work/runtime

commit() { # root, image, configuration...
    local root=$1 image=$2 container
    shift 2
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$root" / >/dev/null
    buildah config "$@" "$container"
    buildah commit --quiet --rm "$container" "$image" >/dev/null
    echo "==> $image"
}

echo "==> Debian $suite from $mirror"
debootstrap --variant=minbase --include="$compilers" "$suite" "$builder" "$mirror" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "debootstrap"; }
echo "deb ${mirror%/debian}/debian-security $suite-security main" >"$builder/etc/apt/sources.list.d/security.list"
in_builder() { chroot "$builder" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
in_builder sh -c 'apt-get -qq update && apt-get -qq --yes upgrade' >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "upgrade"; }
in_builder sh -c "mkdir /packages && cd /packages && apt-get -qq download ${packages[*]}" 2>"$work/log" || { cat "$work/log" >&2; fail "download"; }
mv "$builder/packages" "$work/packages"
in_builder apt-get clean
rm -rf "$builder"/var/lib/apt/lists/*

mkdir -p "$runtime"
for package in "$work"/packages/*.deb; do dpkg-deb --extract "$package" "$runtime"; done
# What their scripts would have made.
mkdir -p "$runtime/etc/ssl/certs" "$runtime/tmp"
cat "$runtime"/usr/share/ca-certificates/mozilla/*.crt >"$runtime/etc/ssl/certs/ca-certificates.crt"
printf '%s\n' 'root:x:0:0:root:/:/sbin/nologin' 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' 'nobody:x:65534:65534:nobody:/:/sbin/nologin' >"$runtime/etc/passwd"
printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' 'nogroup:x:65534:' >"$runtime/etc/group"
echo 'hosts: files dns' >"$runtime/etc/nsswitch.conf"
chmod 1777 "$runtime/tmp"
# Programs (all of them are for a shell), character sets that nobody converts to, and documentation but the licences.
rm -rf "${runtime:?}"/{bin,sbin,usr/bin,usr/sbin,var,root,home,boot,media,mnt,opt,srv} "${runtime:?}"/usr/lib/*/{gconv,audit,engines-3} \
    "${runtime:?}"/usr/share/{base-files,man,lintian,info,locale,dict,ca-certificates}
mkdir -p "$runtime/usr/bin" "$runtime/var/lib"
find "$runtime/usr/share/doc" -type f ! -name copyright -delete
find "$runtime" -xdev -type f -perm /6000 | grep -q . && fail "something in the runtime is set-uid"

toolchain=$(cd "$root" && rustc --print sysroot)
mkdir -p "$builder/usr/local/rust"
tar -C "$toolchain" --exclude=./share --exclude=./lib/rustlib/src -c . | tar -C "$builder/usr/local/rust" -x
commit "$runtime" localhost/holdfast-runtime --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
commit "$builder" localhost/holdfast-builder --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env CARGO_HOME=/usr/local/cargo
