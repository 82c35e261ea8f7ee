"""Notes that are encrypted with their owner's key before they reach the database. With SQLAlchemy 2, its ORM and psycopg 3."""

import base64
import json
import os
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import BigInteger, Integer, Text, column, create_engine, event, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

# The usual variables (PGHOST, PGUSER…) say where the database is. Parameters stay out of logs and exceptions. Without prepared
# statements the application also works behind a pooler in transaction mode.
engine = create_engine(
    "postgresql+psycopg://", pool_size=4, max_overflow=0, hide_parameters=True, connect_args={"prepare_threshold": None}
)


# --- The glue: who the user is, and what is encrypted ---


@event.listens_for(Session, "after_begin")
def set_identity(session, transaction, connection):
    """Each transaction of a session is for its user. The settings end with it, so the next user of the connection starts without any."""
    connection.execute(
        select(
            func.set_config("app.current_user_id", session.info["user"] or "", True),
            func.set_config("app.request_id", session.info["request_id"] or "", True),
        )
    )


def vault(session, function):
    """Calls a function of the vault, such as func.vault_init(), in the FROM clause. The answer has master_key and key_version."""
    return session.execute(select(function.table_valued(column("master_key", Text), column("key_version", Integer)))).one()


def encrypt(master_key, value):
    """enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too."""
    iv = secrets.token_bytes(12)
    ciphertext = AESGCM(base64.b64decode(master_key)).encrypt(iv, json.dumps(value, ensure_ascii=False).encode(), None)
    return f"enc:1:{base64.b64encode(iv).decode()}.{base64.b64encode(ciphertext).decode()}"


def decrypt(master_key, blob):
    iv, ciphertext = (base64.b64decode(part) for part in blob.removeprefix("enc:1:").split("."))
    return json.loads(AESGCM(base64.b64decode(master_key)).decrypt(iv, ciphertext, None))


# --- The application ---


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    owner: Mapped[str] = mapped_column(server_default=func.vault_user_id())
    body: Mapped[str]
    key_version: Mapped[int]

    def write(self, key, text):
        self.body, self.key_version = encrypt(key.master_key, text), key.key_version
        return self


def add_note(session, text):
    session.add(Note().write(vault(session, func.vault_init()), text))


def notes(session):
    return [text for _, text in opened(session, vault(session, func.vault_get_master_key()))]


def opened(session, key):
    """The notes and their texts. A note that was written during a rotation may still be under an older key."""
    keys = {key.key_version: key}
    found = session.scalars(select(Note).order_by(Note.id)).all()
    for version in {note.key_version for note in found} - keys.keys():
        keys[version] = vault(session, func.vault_get_key_version(version))
    return [(note, decrypt(keys[note.key_version].master_key, note.body)) for note in found]


def rotate(session):
    key = vault(session, func.vault_rotate())
    for note, text in opened(session, key):
        note.write(key, text)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, notes)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/rotate":
            self.answer(200, rotate)
        else:
            self.answer(201, lambda session: add_note(session, body))

    def answer(self, status, call):
        # X-User stands for what your session or your token says.
        info = {"user": self.headers.get("X-User"), "request_id": self.headers.get("X-Request-Id")}
        try:
            with Session(engine, info=info) as session, session.begin():
                answer = call(session)
        except DBAPIError as error:
            match error.orig.sqlstate:
                case "P0002":
                    status, answer = 404, {"error": "this user has no vault yet"}
                case "28000":
                    status, answer = 401, {"error": "who are you?"}
                case _:
                    raise
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
