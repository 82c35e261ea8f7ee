#!/usr/bin/env python3
"""The hashed bytes of audit rows, a second time, after docs/formats/audit-leaf.md; prints the frozen vectors of vault_trail's tests.

Only Python's standard library.
"""

import hashlib
from datetime import datetime, timedelta, timezone

PERSONAL = ("user_id", "ip_address", "user_agent", "request_id", "context", "application_name", "token_id", "actor")
OLD_PERSONAL = PERSONAL[:5]
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def field(value) -> bytes:
    if value is None:
        return b"\xff\xff\xff\xff"
    if isinstance(value, int):
        value = value.to_bytes(8, "big", signed=True)
    if isinstance(value, str):
        value = value.encode()
    return len(value).to_bytes(4, "big") + value


def fields(*values) -> bytes:
    return b"".join(map(field, values))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def personal_digest(row: dict) -> bytes:
    if row.get("redacted_digest") is not None:
        return row["redacted_digest"]
    return sha256(fields("vault_ext.audit-personal.v1", row["salt"], *(row.get(name) for name in PERSONAL)))


def leaf_bytes(row: dict) -> bytes:
    return fields(
        "vault_ext.audit-leaf.v1", micros(row["created_at"]), row["action"], row["status"], row.get("kek_id"), row.get("key_version"),
        row["db_role"], row.get("login_role"), row.get("identity"), row.get("issuer"), row.get("token_kid"), row.get("grant_id"),
        personal_digest(row),
    )


def old_row_bytes(row: dict) -> bytes:
    digest = row.get("redacted_digest")
    if digest is None:
        digest = sha256(fields("vault_ext.audit-old-personal.v1", *(row.get(name) for name in OLD_PERSONAL)))
    return fields(
        "vault_ext.audit-old-row.v1", row["id"], micros(row["created_at"]), row["action"], row["status"], row.get("kek_id"),
        row.get("key_version"), row["db_role"], digest,
    )


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\0" + data)


FULL = {
    "id": 7, "created_at": datetime(2031, 5, 2, 7, 8, 9, 123456, timezone.utc), "action": "fetch", "status": 200, "kek_id": "env-v1",
    "key_version": 3, "db_role": "app", "login_role": "authenticator", "identity": "grant", "issuer": "idp", "token_kid": "k1", "grant_id": 42,
    "salt": bytes(range(16)), "user_id": "alice", "ip_address": "192.0.2.7", "user_agent": "curl/8", "request_id": "r-1", "context": "c",
    "application_name": "shop", "token_id": "t-1", "actor": "bätch",
}
SPARSE = {"id": 1, "created_at": datetime(1999, 12, 31, 23, 59, 59, 999999, timezone.utc), "action": "check", "status": 404, "db_role": "r", "salt": bytes(16)}

if __name__ == "__main__":
    for name, row in (("full", FULL), ("sparse", SPARSE)):
        print(name, "digest", personal_digest(row).hex())
        print(name, "leaf", leaf_hash(leaf_bytes(row)).hex())
        print(name, "old row", leaf_hash(old_row_bytes(row)).hex())
    print("bytes", leaf_bytes(SPARSE).hex())
