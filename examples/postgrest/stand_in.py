"""Stands in for PostgREST where it cannot be installed: takes its requests to /rpc/… and sends the SQL that PostgREST 12 to 14 sends."""

import base64
import hashlib
import hmac
import json
import os
import queue
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

CONF = dict(line.strip().split(" = ") for line in open("postgrest.conf") if not line.startswith("#"))
CONF = {name: value.strip('"') for name, value in CONF.items()}
SCHEMA = CONF["db-schemas"]


def claims_of(authorization):
    """The claims of a token with a good signature, None without a token."""
    if authorization is None:
        return None
    signed, _, signature = authorization.removeprefix("Bearer ").rpartition(".")
    expected = hmac.digest(os.environ["PGRST_JWT_SECRET"].encode(), signed.encode(), hashlib.sha256)
    if not hmac.compare_digest(expected, base64.urlsafe_b64decode(signature + "==")):
        raise PermissionError
    return json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))


def call(connection, function, arguments):
    """The statement for a function, after its kind of result, and its parameters."""
    composite, many, names, types = connection.execute(
        """SELECT t.typtype = 'c', proretset, coalesce(proargnames, '{}'), ARRAY(SELECT format_type(a, NULL) FROM unnest(proargtypes) a)
           FROM pg_proc JOIN pg_type t ON t.oid = prorettype WHERE pronamespace = %s::regnamespace AND proname = %s""",
        [SCHEMA, function],
    ).fetchone()
    name = f'"{SCHEMA}"."{function}"'
    passed = ", ".join(f'"{a}" := pgrst_body."{a}"' for a in names)
    columns, source, value = (
        ("*", f"{name}({passed}) pgrst_call", "_postgrest_t")
        if composite
        else ("pgrst_call.pgrst_scalar", f"(SELECT {name}({passed}) pgrst_scalar) pgrst_call", "_postgrest_t.pgrst_scalar")
    )
    if names:
        typed = ", ".join(f'"{a}" {t}' for a, t in zip(names, types))
        source = f"""(SELECT %s::json AS json_data) pgrst_payload,
            LATERAL (SELECT {", ".join(f'"{a}"' for a in names)} FROM json_to_record(pgrst_payload.json_data) AS _({typed}) LIMIT 1) pgrst_body,
            LATERAL {source}"""
    body = f"coalesce(json_agg({value}), '[]')" if many else f"coalesce(json_agg({value})->0, 'null')"
    statement = f"""WITH pgrst_source AS (SELECT {columns} FROM {source})
        SELECT null::bigint AS total_result_set, pg_catalog.count(_postgrest_t) AS page_total, {body} AS body,
            nullif(current_setting('response.headers', true), '') AS response_headers,
            nullif(current_setting('response.status', true), '') AS response_status
        FROM (SELECT * FROM pgrst_source) _postgrest_t"""
    return statement, [arguments] if names else []


def status_of(code, authenticated):
    """PostgREST's table, as far as the vault's errors go: https://docs.postgrest.org/en/stable/references/errors.html"""
    if code == "42501":
        return 403 if authenticated else 401
    if code.startswith("PT"):
        return int(code[2:])
    for prefix, status in [("P0001", 400), ("P0", 500), ("25006", 405), ("28", 403), ("53", 503), ("55", 500), ("XX", 500)]:
        if code.startswith(prefix):
            return status
    return 400


def answer_to(method, path, headers, arguments):
    """The status and the value of PostgREST's answer."""
    try:
        claims = claims_of(headers.get("authorization"))
    except PermissionError:
        return 401, {"code": "PGRST301", "message": "JWT cryptographic operation failed", "details": None, "hint": None}
    role = (claims or {}).get("role", CONF["db-anon-role"])
    connection = pool.get()
    # PostgREST reads the functions once, when it starts.
    statement, parameters = call(connection, path.removeprefix("/rpc/"), arguments)
    try:
        connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED READ {'ONLY' if method == 'GET' else 'WRITE'}")
        connection.execute(
            """select set_config('search_path', %s, true), set_config('role', %s, true), set_config('request.jwt.claims', %s, true),
               set_config('request.method', %s, true), set_config('request.path', %s, true), set_config('request.headers', %s, true),
               set_config('request.cookies', %s, true)""",
            [f'"{SCHEMA}", "public"', role, json.dumps({**(claims or {}), "role": role}), method, path, json.dumps(headers), "{}"],
        )
        schema, function = CONF["db-pre-request"].split(".")
        connection.execute(f'select "{schema}"."{function}"()')
        answer = 200, connection.execute(statement, parameters).fetchone()[2]
        connection.execute("COMMIT")
    except psycopg.Error as error:
        connection.execute("ROLLBACK")
        told = error.diag
        answer = (
            status_of(error.sqlstate, claims is not None),
            {"code": error.sqlstate, "message": told.message_primary, "details": told.message_detail, "hint": told.message_hint},
        )
    # PostgREST does not look, but this is a test.
    (left,) = connection.execute("SELECT current_setting('app.current_user_id', true)").fetchone()
    assert not left, "the user outlives the transaction"
    pool.put(connection)
    return answer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        arguments = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode() or "{}"
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, value = answer_to(self.command, self.path, headers, arguments)
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


pool = queue.SimpleQueue()
for _ in range(4):  # prepares nothing, as with db-prepared-statements = false, so that it also works behind a pooler
    pool.put(psycopg.connect(CONF["db-uri"], autocommit=True, prepare_threshold=None))
ThreadingHTTPServer((CONF["server-host"], int(os.environ["PGRST_SERVER_PORT"])), Handler).serve_forever()
