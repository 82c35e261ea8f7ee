"""Notes that are encrypted with their owner's key before they reach the database. With psycopg 3 and its connection pool."""

import base64
import json
import os
import secrets
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import errors
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

# The usual variables (PGHOST, PGUSER…) say where the database is. Without prepared statements the application also works behind
# a pooler in transaction mode.
pool = ConnectionPool(min_size=2, max_size=4, open=True, kwargs={"row_factory": dict_row, "prepare_threshold": None})


# --- The glue: who the user is, and what is encrypted ---


@contextmanager
def transaction(user, request_id):
    """A transaction for one user. The settings end with it, so the next user of the connection starts without any."""
    with pool.connection() as connection, connection.transaction():
        connection.execute(
            "SELECT set_config('app.current_user_id', %s, true), set_config('app.request_id', %s, true)",
            [user or "", request_id or ""],
        )
        yield connection


def encrypt(master_key, value):
    """enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too."""
    iv = secrets.token_bytes(12)
    ciphertext = AESGCM(base64.b64decode(master_key)).encrypt(iv, json.dumps(value, ensure_ascii=False).encode(), None)
    return f"enc:1:{base64.b64encode(iv).decode()}.{base64.b64encode(ciphertext).decode()}"


def decrypt(master_key, blob):
    iv, ciphertext = (base64.b64decode(part) for part in blob.removeprefix("enc:1:").split("."))
    return json.loads(AESGCM(base64.b64decode(master_key)).decrypt(iv, ciphertext, None))


# --- The application ---


def add_note(connection, text):
    key = connection.execute("SELECT master_key, key_version FROM vault_init()").fetchone()
    connection.execute(
        "INSERT INTO notes (body, key_version) VALUES (%s, %s)", [encrypt(key["master_key"], text), key["key_version"]]
    )


def notes(connection):
    key = connection.execute("SELECT master_key, key_version FROM vault_get_master_key()").fetchone()
    return [text for _, text in opened(connection, key)]


def opened(connection, key):
    """The ids and the texts. A note that was written during a rotation may still be under an older key."""
    keys = {key["key_version"]: key["master_key"]}
    rows = connection.execute("SELECT id, body, key_version FROM notes ORDER BY id").fetchall()
    for version in {row["key_version"] for row in rows} - keys.keys():
        older = connection.execute("SELECT master_key FROM vault_get_key_version(%s)", [version]).fetchone()
        keys[version] = older["master_key"]
    return [(row["id"], decrypt(keys[row["key_version"]], row["body"])) for row in rows]


def rotate(connection):
    key = connection.execute("SELECT master_key, key_version FROM vault_rotate()").fetchone()
    for note, text in opened(connection, key):
        connection.execute(
            "UPDATE notes SET body = %s, key_version = %s WHERE id = %s",
            [encrypt(key["master_key"], text), key["key_version"], note],
        )


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, notes)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/rotate":
            self.answer(200, rotate)
        else:
            self.answer(201, lambda connection: add_note(connection, body))

    def answer(self, status, call):
        try:
            # X-User stands for what your session or your token says.
            with transaction(self.headers.get("X-User"), self.headers.get("X-Request-Id")) as connection:
                answer = call(connection)
        except errors.NoDataFound:  # P0002
            status, answer = 404, {"error": "this user has no vault yet"}
        except errors.InvalidAuthorizationSpecification:  # 28000
            status, answer = 401, {"error": "who are you?"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
