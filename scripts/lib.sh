# shellcheck shell=bash
# What every script here needs: a Python, a virtual environment with the locked
# packages, and a few programs from apt. Source it; it defines functions and `root`.
#
# Works without a terminal and without input, from any working directory, on a
# Debian where nothing was installed by hand. As another user than root it installs
# nothing and says what is missing.

set -euo pipefail
export LC_ALL=C.UTF-8
unset PYTHONHOME PYTHONPATH CDPATH

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python  # for the script that sources this
program=$(basename -- "$0")

say() { printf '%s: %s\n' "$program" "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# logged COMPLAINT COMMAND...: run it quietly; when it fails, show the end of its words and stop.
logged() {
    local complaint=$1 log
    shift
    log=$(mktemp)
    if ! "$@" </dev/null >"$log" 2>&1; then
        tail -n 25 -- "$log" >&2
        rm -f -- "$log"
        die "$complaint; its last words are above"
    fi
    rm -f -- "$log"
}

# need PROGRAM PACKAGE: make sure that PROGRAM can be run, by apt where we may.
need() {
    command -v "$1" >/dev/null && return
    apt_install "$2"
    command -v "$1" >/dev/null || die "$1 is still missing after installing $2"
}

# apt_install PACKAGE...
apt_install() {
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        die "please install $* first (Debian, Ubuntu: sudo apt-get install $*)"
    fi
    say "installing $* with apt-get ..."
    logged "apt-get could not install $*" install_fresh "$@"
}

# The package lists may be absent (a bare image) or stale: then fetch them, once.
install_fresh() {
    apt_get install "$@" || { apt_get update && apt_get install "$@"; }
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@"
}

# usable_python PROGRAM: new enough, and able to make a virtual environment?
# Debian's python3 can lack ensurepip, and a self-built one ssl or sqlite3.
usable_python() {
    "$1" - >/dev/null 2>&1 <<'PY'
import ensurepip, sqlite3, ssl, sys, venv
sys.exit(sys.version_info < (3, 11))
PY
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.{11..15} /usr/bin/python3; do
        if command -v "$candidate" >/dev/null && usable_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# setup_venv LOCK: a virtual environment with what LOCK (a file name) pins.
# Done again only when the lock, the interpreter or the checkout's place changed.
setup_venv() {
    local lock=$root/$1 stamp=$venv/.installed-$1 base want
    mkdir -p -- "$root/.cache"
    exec {setup_lock}>"$root/.cache/setup.lock"
    if command -v flock >/dev/null; then flock "$setup_lock"; fi # two scripts at once

    # The path counts since programs in .venv/bin hold it in their first line.
    want=$(printf '%s\n' "$root" | cat - "$lock" | sha256sum)
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        if ! base=$(find_python); then
            apt_install python3-venv
            base=$(find_python) || die "Python 3.11 or newer is needed; found: $(
                python3 --version 2>&1 || true). Set PYTHON=/path/to/python3.11 if you have one."
        fi
        say "making a virtual environment with $base ..."
        rm -rf -- "$venv"
        "$base" -m venv -- "$venv"
    fi
    if [[ $(cat -- "$stamp" 2>/dev/null || true) != "$want" ]]; then
        say "installing $1 (hashes are checked) ..."
        logged "pip could not install $1" "$python" -m pip --disable-pip-version-check \
            --no-input install --require-hashes --requirement "$lock"
        # The package itself is used from the checkout.
        "$python" - "$root" <<'PY'
import sys, sysconfig
from pathlib import Path

target = Path(sysconfig.get_path("purelib")) / "qbm_trio_checkout.pth"
target.write_text(sys.argv[1] + "\n", encoding="utf-8")
PY
        printf '%s\n' "$want" >"$stamp"
    fi
    exec {setup_lock}>&-
}

# help_of ARGUMENT...: for --help, print the head of the script that sources this, and stop.
help_of() {
    local argument
    for argument; do
        if [[ $argument == -h || $argument == --help ]]; then
            sed -n '2,/^[^#]/ { /^# shellcheck/d; /^#/!d; s/^# \{0,1\}//; p; }' "$0"
            exit 0
        fi
    done
}

need_qbittorrent() { need qbittorrent-nox qbittorrent-nox; }
