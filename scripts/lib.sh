# shellcheck shell=bash
# What the scripts share: the PostgreSQL to use, the folder for the work, the user of the server. Source this file; do not run it.
set -euo pipefail
umask 022 # if we are root, the server's user must be able to read the files
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PG=${PG:-15}
PG_CONFIG=${PG_CONFIG:-}

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$1" >&2; shift; [ $# = 0 ] || printf '       %s\n' "$@" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

case $PG in 15 | 16 | 17 | 18) ;; *) die "PG=$PG: vault_ext supports PostgreSQL 15, 16, 17 and 18" ;; esac

# PostgreSQL refuses to run as root. If we are root, the server runs as `postgres`. That user must be able to read the trees and
# cannot enter a clone under /root, so the work goes to /var/tmp.
if [ "$(id -u)" = 0 ]; then
  SERVER_USER=postgres
  WORK=${VAULT_EXT_WORK:-/var/tmp/vault_ext-$(pwd -P | sha256sum | cut -c1-8)}
else
  SERVER_USER=$(id -un)
  WORK=${VAULT_EXT_WORK:-$PWD/target/work}
fi
mkdir -p "$WORK"
[ -O "$WORK" ] || die "$WORK belongs to another user" "set VAULT_EXT_WORK to a folder of your own"
WORK=$(cd "$WORK" && pwd -P)
export VAULT_EXT_WORK=$WORK
export USER=${USER:-$(id -un)} # pgrx's tests read it, and containers often do not set it
PATH=$WORK/tools/bin:$PATH     # scripts/setup installs cargo-pgrx there if cargo's own folder has another version

unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS # other flags would compile everything again
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 # it sets flags, too; build.rs does its job for the one crate that needs it

# Runs a command as the server's user, in a folder that every user can enter.
as_server() {
  if [ "$SERVER_USER" = "$(id -un)" ]; then (cd / && "$@"); else (cd / && runuser -u "$SERVER_USER" -- "$@"); fi
}

# Makes a temporary folder of the server's user. Its path is short, since socket paths are limited to 107 bytes.
server_tmp() { as_server mktemp -d "/tmp/vault_ext.XXXXXX"; }

# Only Cargo.toml states the version of pgrx.
pgrx_version() { sed -n 's/^pgrx = .*"=\([0-9.]*\)".*/\1/p' Cargo.toml; }

# The version of vault_ext, which Cargo.toml states too.
vault_ext_version() { sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml; }

# Sets PG_CONFIG, or stops and says what is missing.
find_postgres() {
  local install="install postgresql-$PG and postgresql-server-dev-$PG"
  [ "$PG" = 15 ] || install+=" (from the PostgreSQL project's apt repository, PGDG)"
  if [ -z "$PG_CONFIG" ]; then
    PG_CONFIG=/usr/lib/postgresql/$PG/bin/pg_config
    [ -x "$PG_CONFIG" ] || die "PostgreSQL $PG was not found" "$install, or pass PG_CONFIG=/path/to/pg_config"
  fi
  command -v "$PG_CONFIG" > /dev/null || die "PG_CONFIG=$PG_CONFIG is not a program"
  PG_CONFIG=$(command -v "$PG_CONFIG")
  local version; version=$("$PG_CONFIG" --version)
  [[ $version =~ ^PostgreSQL\ $PG([^0-9]|$) ]] || die "$PG_CONFIG belongs to $version, but PG=$PG was requested"
  [ -x "$("$PG_CONFIG" --bindir)/postgres" ] || die "there is no server next to $PG_CONFIG" "$install"
  [ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ] || die "the server headers of PostgreSQL $PG are missing" "$install"
}

# use_tree debug|release: makes a private copy of PostgreSQL for that profile (see scripts/pg-tree), so that nothing is written
# to the system's folders, and a private PGRX_HOME that names the copy. pgrx builds its bindings again if config.toml is newer,
# so the file is only written if its content changes.
use_tree() {
  find_postgres
  PROFILE=$1 TREE=$WORK/pg$PG-$1
  TREE_PG_CONFIG=$(scripts/pg-tree "$PG_CONFIG" "$TREE")
  export VAULT_EXT_PG_CONFIG=$TREE_PG_CONFIG PGRX_HOME=$TREE/pgrx PGRX_PG_CONFIG_PATH=$TREE_PG_CONFIG
  local config; config=$(printf '[configs]\npg%s = "%s"' "$PG" "$TREE_PG_CONFIG")
  mkdir -p "$PGRX_HOME"
  [ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" = "$config" ] || echo "$config" > "$PGRX_HOME/config.toml"
  [ "$1" = debug ] || hide_paths
}

# Keeps the paths of this machine out of what the compilers make, so that a release build gives the same bytes everywhere. The
# compilers see real paths where they ask for their working folder.
hide_paths() {
  local from cargo=${CARGO_HOME:-$HOME/.cargo} here; here=$(pwd -P)
  CARGO_ENCODED_RUSTFLAGS='' CFLAGS=''
  for from in "$cargo=/cargo" "$(readlink -m "$cargo/registry")=/cargo/registry" "$WORK=/work" "$here=/vault_ext" \
    "${CARGO_TARGET_DIR:-$here/target}=/vault_ext/target"; do
    CARGO_ENCODED_RUSTFLAGS+=${CARGO_ENCODED_RUSTFLAGS:+$'\x1f'}--remap-path-prefix=$from
    CFLAGS+="${CFLAGS:+ }-ffile-prefix-map=$from"
  done
  export CARGO_ENCODED_RUSTFLAGS CFLAGS
}

# Builds the extension and installs it into that tree. Also installs the scripts of released versions, which only the tests need:
# they start from them.
install_extension() {
  local profile=()
  [ "$PROFILE" = debug ] || profile=(--release)
  cargo pgrx install --pg-config "$TREE_PG_CONFIG" --no-default-features --features "pg$PG" "${profile[@]}"
  cp sql/released/vault_ext--*.sql "$("$TREE_PG_CONFIG" --sharedir)/extension"
}

# Runs the tests over the wire. All scripts use the same features, so they share one build. A script leaves out tests by their
# names.
cargo_wire() { cargo test --no-default-features --features "pg$PG mounts cores upgrade neighbours patroni monitoring citus" --test wire "$@"; }

passed=0 failed=0 times=()

# took START TEXT: adds a line to the table that `summary` prints.
took() { times+=("$(printf '%5d s  %s' $((SECONDS - $1)) "$2")"); }

# build COMMAND…: runs a build and records how long it took. If it fails, the run ends.
build() {
  local start=$SECONDS
  say "building for PostgreSQL $PG (the first time it takes about 2 minutes)"
  "$@"
  took "$start" building
}
build_wire() { install_extension; cargo build -p vault_trail_cli; cargo_wire --no-run; }

# check TEXT COMMAND…: counts one test, and shows what the command said if it fails.
check() {
  local text=$1 output; shift
  if output=$("$@" 2>&1); then passed=$((passed + 1)); echo "ok      $text"
  else failed=$((failed + 1)); printf 'FAILED  %s\n%s\n' "$text" "$output"; fi
}

# tests TEXT COMMAND…: runs tests and adds up cargo's test summaries. It also counts as one failure if the command fails without
# a failed test (it did not compile, or it crashed), or if no test ran.
tests() {
  local text=$1 start=$SECONDS ok=0 bad=0 status=0 log; shift
  say "$text"
  log=$(mktemp)
  "$@" 2>&1 | tee "$log" || status=$?
  read -r ok bad < <(awk '/^test result:/ {
    for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) ok += $(i-1); if ($i ~ /^failed/) bad += $(i-1) } } END { print ok+0, bad+0 }' "$log")
  rm "$log"
  if [ $status != 0 ] && [ "$bad" = 0 ]; then echo "the command itself failed, which counts as one failure"; bad=1; fi
  if [ $status = 0 ] && [ "$ok" = 0 ]; then echo "no test ran, which counts as one failure"; bad=1; fi
  passed=$((passed + ok)) failed=$((failed + bad))
  took "$start" "$text"
  echo "($text: $ok passed, $bad failed, $((SECONDS - start)) s)"
}

# Prints where the time went, and then the line that CI adds up. Fails if a test failed.
summary() {
  say "PostgreSQL $PG, $SECONDS s"
  printf '%s\n' "${times[@]}"
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}
