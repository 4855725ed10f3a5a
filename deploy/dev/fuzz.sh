#!/usr/bin/env bash
# Throws bytes at what reads bytes of others: the targets in fuzz/targets, with the corpus in fuzz/corpus.
#
#   fuzz.sh run SECONDS [TARGET..]   builds cargo-fuzz (pinned) and the targets, and runs each for so long; a finding is an error
#   fuzz.sh keep                     adds to the corpus what reaches code that nothing in it reaches yet
#
# It needs a nightly compiler, whose sanitizer and coverage libFuzzer uses.
set -euo pipefail

version=0.13.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast
binary=$cache/cargo-fuzz-$version/bin
cd "$(dirname "$0")/../.."
found=fuzz/target/corpus

usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }

install() {
    rustup toolchain list | grep -q '^nightly' ||
        { echo "Fuzzing needs a nightly compiler: rustup toolchain install nightly" >&2; exit 1; }
    [[ -x $binary/cargo-fuzz ]] ||
        cargo install --quiet --locked --no-track --root "${binary%/bin}" --version "=$version" cargo-fuzz
}

targets() { sed -n '/^\[\[bin\]\]/{n;s/name = "\(.*\)"/\1/p}' fuzz/Cargo.toml; }

fuzz() { PATH=$binary:$PATH cargo +nightly fuzz "$@"; }

case ${1:-} in
run)
    [[ ${2:-} =~ ^[0-9]+$ ]] || usage
    seconds=$2
    shift 2
    [[ $# -gt 0 ]] || mapfile -t names < <(targets)
    install
    fuzz build
    for target in "${@:-${names[@]}}"; do
        mkdir -p "$found/$target"
        # A file of 5 s or 512 MB is a finding, too.
        fuzz run "$target" "$found/$target" "fuzz/corpus/$target" -- \
            -max_total_time="$seconds" -timeout=5 -rss_limit_mb=512 -print_final_stats=1 -verbosity=0
    done
    ;;
keep)
    install
    for target in $(targets); do
        [[ ! -d $found/$target ]] || fuzz run "$target" "fuzz/corpus/$target" "$found/$target" -- -merge=1 -timeout=5 -verbosity=0
    done
    ;;
*) usage ;;
esac
