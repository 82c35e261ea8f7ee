#!/bin/bash
# Stands in for the entrypoint of the official image of PostgreSQL, which the tests cannot load. It does what that image's documentation says of
# the parts that the tests use.
set -euo pipefail

# from_file VARIABLE: takes the value from the file that VARIABLE_FILE names, if that is set.
from_file() {
  local file=$1_FILE
  [ -z "${!file:-}" ] || printf -v "$1" %s "$(cat "${!file}")"
}

[ "${1:0:1}" != - ] || set -- postgres "$@"
case "$1 ${2:-}" in
  'postgres --help' | 'postgres --version') exec "$@" ;;
  postgres*) ;;
  *) exec "$@" ;;
esac

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA"
  chown postgres "$PGDATA"
  exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  from_file POSTGRES_PASSWORD
  POSTGRES_USER=${POSTGRES_USER:-postgres} POSTGRES_DB=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}
  export POSTGRES_USER POSTGRES_DB
  if [ -z "${POSTGRES_PASSWORD:-}" ]; then
    echo 'Error: Database is uninitialized and superuser password is not specified.' >&2
    exit 1
  fi
  initdb --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD")
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  # This server is for the scripts alone: nobody reaches it over TCP.
  pg_ctl -D "$PGDATA" -o "$(printf '%q ' "${@:2}" -c listen_addresses=)" -w start
  [ "$POSTGRES_DB" = postgres ] || psql -X -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
  for script in /docker-entrypoint-initdb.d/*; do
    echo "$0: running $script"
    case $script in
      *.sh) "$script" ;;
      *.sql) psql -X -v ON_ERROR_STOP=1 --no-password -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$script" ;;
    esac
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
unset POSTGRES_PASSWORD
exec "$@"
