# shellcheck shell=bash
# What the scripts share: which PostgreSQL, where the work goes, as whom the server runs. Sourced, never run.
set -euo pipefail
umask 022 # as root, the server's user must be able to read what is made here
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PG=${PG:-15}
PG_CONFIG=${PG_CONFIG:-}

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$1" >&2; shift; [ $# = 0 ] || printf '       %s\n' "$@" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

case $PG in 15 | 16 | 17 | 18) ;; *) die "PG=$PG: vault_ext knows PostgreSQL 15, 16, 17 and 18" ;; esac

# PostgreSQL refuses to run as root; then its server runs as `postgres`, which must be able to read the trees, and a
# clone under /root is closed to it.
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
export USER=${USER:-$(id -un)} # pgrx's tests read it, containers often lack it
PATH=$WORK/tools/bin:$PATH     # scripts/setup puts cargo-pgrx there when cargo's own folder holds another version

unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS # with other flags everything would be compiled once more
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 # the same; build.rs does it for the one crate that needs it

# Runs a command as the server's user, from a folder that everybody can enter.
as_server() {
  if [ "$SERVER_USER" = "$(id -un)" ]; then (cd / && "$@"); else (cd / && runuser -u "$SERVER_USER" -- "$@"); fi
}

# A temporary folder of the server's user, with a short path: socket paths are limited to 107 bytes.
server_tmp() { as_server mktemp -d "/tmp/vault_ext.XXXXXX"; }

# The pgrx version is stated once, in Cargo.toml.
pgrx_version() { sed -n 's/^pgrx = .*"=\([0-9.]*\)".*/\1/p' Cargo.toml; }

# Sets PG_CONFIG, or says what is missing.
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
  [[ $version =~ ^PostgreSQL\ $PG([^0-9]|$) ]] || die "$PG_CONFIG is of $version, but PG=$PG was asked for"
  [ -x "$("$PG_CONFIG" --bindir)/postgres" ] || die "there is no server beside $PG_CONFIG" "$install"
  [ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ] || die "the server headers of PostgreSQL $PG are missing" "$install"
}

# use_tree debug|release: a private copy of PostgreSQL for that profile (see scripts/pg-tree), so that nothing is ever
# written to the system's folders, and a private PGRX_HOME that names it. Its config.toml is only written when it
# changes: pgrx's bindings are built anew whenever that file is newer.
use_tree() {
  find_postgres
  PROFILE=$1 TREE=$WORK/pg$PG-$1
  TREE_PG_CONFIG=$(scripts/pg-tree "$PG_CONFIG" "$TREE")
  export VAULT_EXT_PG_CONFIG=$TREE_PG_CONFIG PGRX_HOME=$TREE/pgrx PGRX_PG_CONFIG_PATH=$TREE_PG_CONFIG
  local config; config=$(printf '[configs]\npg%s = "%s"' "$PG" "$TREE_PG_CONFIG")
  mkdir -p "$PGRX_HOME"
  [ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" = "$config" ] || echo "$config" > "$PGRX_HOME/config.toml"
}

# Builds the extension and installs it into that tree, with the scripts of the versions that were released, which nobody
# needs but the tests: they start from them.
install_extension() {
  local profile=()
  [ "$PROFILE" = debug ] || profile=(--release)
  cargo pgrx install --pg-config "$TREE_PG_CONFIG" --no-default-features --features "pg$PG" "${profile[@]}"
  cp sql/released/vault_ext--*.sql "$("$TREE_PG_CONFIG" --sharedir)/extension"
}

# The tests over the wire, with what only some scripts run: so all of them share one build, and leave out by name.
cargo_wire() { cargo test --no-default-features --features "pg$PG mounts cores upgrade neighbours patroni" --test wire "$@"; }

passed=0 failed=0 times=()

# took START TEXT: for the table that summary prints.
took() { times+=("$(printf '%5d s  %s' $((SECONDS - $1)) "$2")"); }

# build COMMAND…: says how long it took. A build that fails ends the run.
build() {
  local start=$SECONDS
  say "building for PostgreSQL $PG (the first time it takes about 2 minutes)"
  "$@"
  took "$start" building
}
build_wire() { install_extension; cargo_wire --no-run; }

# tests TEXT COMMAND…: counts what cargo's test summaries say. A command that fails without a failed test (it did not
# compile, it crashed) or that ran no test at all is a failure, too.
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

# Where the time went, and the line that CI adds up. Fails if a test did.
summary() {
  say "PostgreSQL $PG, $SECONDS s"
  printf '%s\n' "${times[@]}"
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}
