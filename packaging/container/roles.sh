#!/bin/bash
# The official image runs this when it makes a new data directory: the roles that log in from other containers, with passwords from the secrets.
set -euo pipefail

# The settings keep the passwords out of the server's log.
psql -X -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
\set my_app `cat /run/secrets/my_app_password`
\set prometheus `cat /run/secrets/prometheus_password`
SET log_statement = 'none'; SET log_min_error_statement = 'panic';
CREATE ROLE my_app LOGIN PASSWORD :'my_app';
GRANT vault_ext_user TO my_app;
ALTER ROLE prometheus PASSWORD :'prometheus';
SQL
