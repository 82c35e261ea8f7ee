#!/usr/bin/env python3
"""Writes rows of the predecessor's newest table with none of the project's code, as COPY reads them.

    predecessor_rows.py COUNT
    predecessor_rows.py --check

The columns: user_id, wrapped_mk, wrap_iv, format_version, kek_id, created_at, rotated_at, recovery_wrapped_mk, recovery_iv,
recovery_format_version, recovery_set_at, zero_knowledge. Of three users, one has a recovery wrap, and one is in
zero-knowledge mode. The KEK is the bytes 01 02 .. 20. The master key of a user is the SHA-256 of "key of " and the user id,
the secret of the recovery code that of "code of " and the user id.
--check computes the predecessor's vectors.
"""

import base64
import hashlib
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEK = bytes(range(1, 33))


def base64_of(data):
    return base64.b64encode(data).decode()


def sha256(text):
    return hashlib.sha256(text.encode()).digest()


def recovery_key(secret):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"mana-recovery-v1").derive(secret)


def wrap(key, iv, master_key):
    return base64_of(AESGCM(key).encrypt(iv, master_key, None))


def row(number):
    user = "user-%d" % number
    master_key = sha256("key of " + user)
    iv, recovery_iv = sha256("iv of " + user)[:12], sha256("recovery iv of " + user)[:12]
    has_recovery, zero_knowledge = number % 3 != 0, number % 3 == 2
    null = "\\N"
    server = [null, null] if zero_knowledge else [wrap(KEK, iv, master_key), base64_of(iv)]
    recovery = [null, null, "1", null]
    if has_recovery:
        wrapped = wrap(recovery_key(sha256("code of " + user)), recovery_iv, master_key)
        recovery = [wrapped, base64_of(recovery_iv), "1", "2025-03-04 05:06:07.89+00"]
    times = ["2024-05-06 07:08:09.123+00", "2024-06-07 08:09:10+00" if number % 2 else null]
    return [user, *server, "1", "env-v1", *times, *recovery, "t" if zero_knowledge else "f"]


def check():
    iv, master_key = bytes(range(0x10, 0x1C)), bytes(range(0xA0, 0xC0))
    assert wrap(KEK, iv, master_key) == "EkoYuy/eugLj+TUwymd4xT07qypjikNu+XfObRXpLsp1LPM+pXxISRohaJtl0f9/"
    key = recovery_key(bytes(range(32)))
    assert key.hex() == "e29b7101bde0a9a100f34002714421915c750f10a44c0cd963356057733d0cd4"
    assert wrap(key, iv, master_key) == "iOIMVYY5oxAgyY1xS9PzDB36R+7sHkTPY48aHDcsGkLSONC4KYNsAkSdmpTB3S9g"
    print("ok")


if sys.argv[1:] == ["--check"]:
    check()
elif len(sys.argv) == 2:
    for number in range(int(sys.argv[1])):
        print("\t".join(row(number)))
else:
    sys.exit(__doc__)
