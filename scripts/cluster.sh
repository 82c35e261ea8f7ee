# shellcheck shell=bash
# A small server with vault_ext, for the demo and the playground. Source this file after lib.sh. The caller's folder STATE keeps
# what is needed to find the server again: `settings` (TREE_PG_CONFIG, SERVER, PORT) and `pgpass` (the password of my_app).
unset PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGDATA PGOPTIONS PGSERVICE PGSERVICEFILE PGSSLMODE RUST_BACKTRACE
export LC_ALL=C.UTF-8

program() { echo "$("$TREE_PG_CONFIG" --bindir)/$1"; }

free_port() {
  local port
  for port in $(shuf -i 20000-29999 -n 100); do
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
  done
  die "no free port on 127.0.0.1"
}

base64url() { base64 -w 0 | tr '+/' '-_' | tr -d '='; }

# token_of USER: a token of the server's issuer, good for five minutes.
token_of() {
  local signed message; message=$(server_tmp)
  signed=$(printf '{"alg":"EdDSA","typ":"JWT"}' | base64url).$(printf \
    '{"iss":"https://id.example/","aud":"demo","sub":"%s","iat":%d,"exp":%d}' "$1" "$(date +%s)" "$(($(date +%s) + 300))" | base64url)
  printf %s "$signed" | as_server tee "$message/signed" > /dev/null
  printf '%s.%s' "$signed" "$(as_server openssl pkeyutl -sign -rawin -inkey "$SERVER/issuer.pem" -in "$message/signed" | base64url)"
  as_server rm -rf "$message"
}

# make_cluster STATE: makes a server from the tree of the last use_tree, and starts it.
make_cluster() {
  STATE=$1 SERVER=$(server_tmp) PORT=$(free_port)
  mkdir -p "$STATE"
  declare -p TREE_PG_CONFIG SERVER PORT | sed 's/^declare -[^ ]* //' > "$STATE/settings"
  # The key file lies outside the data directory, so that base backups do not contain it. Only the server's user can read it.
  # shellcheck disable=SC2016
  as_server sh -c 'umask 077; { printf "demo-1 "; head -c 32 /dev/urandom | base64; } > "$0"' "$SERVER/kek"
  # The superuser connects through the socket without a password (peer). Applications connect over TCP with a password.
  as_server "$(program initdb)" -D "$SERVER/data" --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=peer --auth-host=scram-sha-256 > "$SERVER.log" 2>&1 || { cat "$SERVER.log" >&2; die "initdb failed"; }
  rm "$SERVER.log"
  # An issuer of tokens: its public key stands in a file; the private one would be the identity provider's.
  as_server openssl genpkey -algorithm ed25519 -out "$SERVER/issuer.pem"
  # shellcheck disable=SC2016
  as_server sh -c 'printf "{\"issuers\": [{\"name\": \"idp\", \"iss\": \"https://id.example/\", \"aud\": [\"demo\"], \"algs\": [\"EdDSA\"],
    \"jwks\": {\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"%s\"}]}}]}" "$1" > "$0"; chmod 644 "$0"' \
    "$SERVER/issuers.json" "$(as_server openssl pkey -in "$SERVER/issuer.pem" -pubout -outform DER | tail -c 32 | base64url)"
  as_server tee -a "$SERVER/data/postgresql.conf" > /dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $PORT
unix_socket_directories = '$SERVER'
shared_preload_libraries = 'vault_ext'
vault_ext.kek_file = '$SERVER/kek'
vault_ext.issuers_file = '$SERVER/issuers.json'
CONF
  as_server "$(program pg_ctl)" start -w -s -D "$SERVER/data" -l "$SERVER/log" > /dev/null ||
    { as_server cat "$SERVER/log" >&2; die "the server did not start; its log is above"; }
}

# admin_sql [DATABASE]: runs the SQL on standard input as the superuser.
admin_sql() { as_server "$(program psql)" -X -q -v ON_ERROR_STOP=1 -h "$SERVER" -p "$PORT" -d "${1:-demo}"; }

# What a DBA does once.
make_database() {
  local password; password=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
  (umask 077; echo "127.0.0.1:$PORT:*:my_app:$password" > "$STATE/pgpass")
  # The server computes the verifier, so the statement contains the password. These settings keep it out of the server's log.
  admin_sql postgres <<SQL
SET log_statement = 'none'; SET log_min_error_statement = 'panic';
CREATE ROLE my_app LOGIN PASSWORD '$password';
CREATE DATABASE demo;
SQL
  admin_sql <<SQL
CREATE EXTENSION vault_ext;
GRANT vault_ext_user TO my_app;
CREATE TABLE notes (body text);
GRANT INSERT, SELECT ON notes TO my_app;
CREATE FUNCTION fingerprint(key text) RETURNS text LANGUAGE sql IMMUTABLE
  RETURN left(encode(sha256(decode(key, 'base64')), 'hex'), 12);
SQL
}

# psql as the application, over TCP.
app_psql() { PGPASSFILE=$STATE/pgpass "$(program psql)" -X -h 127.0.0.1 -p "$PORT" -U my_app -d demo "$@"; }

remove_cluster() {
  [ -n "${SERVER:-}" ] || return 0
  if as_server test -f "$SERVER/data/postmaster.pid"; then
    as_server "$(program pg_ctl)" stop -w -s -m fast -D "$SERVER/data" || true
  fi
  as_server rm -rf "$SERVER"
  rm -rf "$STATE"
}
