#!/usr/bin/env bash
# Installs what building, testing and running Holdfast needs on Debian 12 or Ubuntu, and only what is missing.
# Never starts or changes a PostgreSQL cluster. Rust is only looked for: it belongs to the person, not to the machine.
set -euo pipefail

packages=(build-essential clang libclang-dev libssl-dev pkg-config postgresql gnupg zstd strace libfaketime e2fsprogs
    ca-certificates)

missing=()
if command -v dpkg-query >/dev/null; then
    installed=$(dpkg-query -W -f '${Package} ${Status}\n' "${packages[@]}" 2>/dev/null || true)
    for package in "${packages[@]}"; do
        [[ $'\n'$installed$'\n' == *$'\n'"$package install ok installed"$'\n'* ]] || missing+=("$package")
    done
    # A server from elsewhere (another package of it, or one built by hand) is as good.
    servers=(/usr/lib/postgresql/*/bin/postgres)
    if [[ -x ${servers[0]} ]]; then
        for i in "${!missing[@]}"; do [[ ${missing[i]} != postgresql ]] || unset "missing[i]"; done
    fi
else
    for program in cc clang pkg-config postgres gpg zstd strace; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    if ((${#missing[@]})); then
        echo "This is neither Debian nor Ubuntu. Install by hand: ${missing[*]}, and the headers of OpenSSL and libclang." >&2
        exit 1
    fi
fi

if ((${#missing[@]})); then
    if [[ $EUID -eq 0 ]]; then
        sudo=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo=(sudo)
    elif command -v sudo >/dev/null && [[ -t 0 ]]; then
        echo "Missing: ${missing[*]}. sudo may ask for your password."
        sudo=(sudo)
    else
        echo "Missing: ${missing[*]}. Install them as root:  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null; }
    echo "Installing: ${missing[*]}"
    apt update
    if [[ " ${missing[*]} " == *" postgresql "* ]]; then
        # Debian's package makes and starts a cluster on port 5432 unless it is told not to before it comes.
        apt install --no-install-recommends postgresql-common
        "${sudo[@]}" sed -i -E 's/^#?\s*create_main_cluster\s*=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
        grep -q '^create_main_cluster = false' /etc/postgresql-common/createcluster.conf ||
            echo 'create_main_cluster = false' | "${sudo[@]}" tee -a /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    apt install --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null && [[ ! -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
    cat >&2 <<'TEXT'
Rust is missing. rustup (https://rustup.rs) installs it; the version is chosen by rust-toolchain.toml:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain none
TEXT
    exit 1
fi
