#!/usr/bin/env python3
"""Prints the frozen vectors of vault_core's `data` modules and of check values of master keys.

A second implementation: Python's `cryptography` for AES, AES-GCM and HKDF, `hmac` for HMAC; XAES-256-GCM is written out below
after the C2SP text. The tests hold the same values as constants. Needs `python3-cryptography`.
"""

import hashlib
import hmac
import struct
from base64 import b64encode

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def xaes_256_gcm(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Ciphertext and tag, after https://c2sp.org/XAES-256-GCM."""
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    block = int.from_bytes(ecb.update(bytes(16)), "big")
    k1 = (block << 1) & (2**128 - 1)
    if block >> 127:
        k1 ^= 0x87

    def half(number: int) -> bytes:
        message = bytes([0, number]) + b"X\0" + nonce[:12]
        return ecb.update((int.from_bytes(message, "big") ^ k1).to_bytes(16, "big"))

    return AESGCM(half(1) + half(2)).encrypt(nonce[12:], plaintext, aad)


# The two vectors of C2SP.
NONCE_OF_C2SP = b"ABCDEFGHIJKLMNOPQRSTUVWX"
assert xaes_256_gcm(b"\1" * 32, NONCE_OF_C2SP, b"XAES-256-GCM", b"").hex() == (
    "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
)
assert xaes_256_gcm(b"\3" * 32, NONCE_OF_C2SP, b"XAES-256-GCM", b"c2sp.org/XAES-256-GCM").hex() == (
    "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"
)


def part(text: bytes) -> bytes:
    """A variable part behind its length."""
    return struct.pack(">H", len(text)) + text


def hkdf(key: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def value(key: bytes, nonce: bytes, kind: int, binding: tuple, plaintext: bytes) -> bytes:
    user_id, version, purpose, context = binding
    version = struct.pack(">I", version)
    aad = b"vault_ext.data.v1" + bytes([kind]) + part(user_id) + version + part(purpose) + part(context)
    return bytes([1, kind]) + version + nonce + xaes_256_gcm(key, nonce, plaintext, aad)


def blind_index(key: bytes, text: bytes, bits: int) -> bytes:
    whole = int.from_bytes(hmac_sha256(key, text), "big")
    length = (bits + 7) // 8
    return (whole >> (256 - bits) << (length * 8 - bits)).to_bytes(length, "big")


MASTER_KEY = bytes(range(0xA0, 0xC0))
NONCE = bytes(range(0x40, 0x58))
IV = bytes(range(0x10, 0x1C))

print("# crypto/check.rs: master key a0 .. bf, 32 zero bytes")
print("CHECK_A0", hkdf(MASTER_KEY, b"", b"vault_ext.master-key-check.v1", 16).hex())
print("CHECK_00", hkdf(bytes(32), b"", b"vault_ext.master-key-check.v1", 16).hex())

print("# data/derive.rs: master key a0 .. bf; purpose 'data', and one of 255 bytes")
LONG = ("ü" * 127 + "x").encode()
for name, purpose in (("KEY", b"data"), ("LONG", LONG)):
    for use, label in (("DATA", "data-key"), ("DERIVED", "derived-key"), ("INDEX", "blind-index")):
        print(f"{use}_{name}", hkdf(MASTER_KEY, b"", f"vault_ext.{label}.v1".encode() + part(purpose)).hex())
MISSION = b"mana-ai-mission-grant:v1:tables=notes,tasks:ids=notes:n1,tasks:t1"
print("MISSION", hkdf(bytes(range(1, 33)), b"mission-abc", MISSION).hex())
print("GENERAL_EMPTY", hkdf(MASTER_KEY, b"", b"").hex())

print("# data/index.rs: index key a0 .. bf")
for bits in (256, 13, 8):
    print(f"INDEX_{bits}", blind_index(MASTER_KEY, b"a@example.org", bits).hex())
print("INDEX_EMPTY", blind_index(MASTER_KEY, b"", 256).hex())

print("# data/value.rs: data key a0 .. bf, nonce 40 .. 57")
PLACE = (b"user-1", 1, b"data", b"notes.body:7")
BOUNDS = (LONG, 2**31 - 1, b"p" * 255, ("ü" * 512).encode())
for name, kind, binding, plaintext in (
    ("TEXT", 2, PLACE, b"Buy milk"),
    ("BYTEA", 1, PLACE, b"\x00\xff"),
    ("JSON", 3, PLACE, b'{"a": 1}'),
    ("EMPTY", 2, PLACE, b""),
    ("BOUNDS", 2, BOUNDS, b"Buy milk"),
):
    print("VALUE_" + name, value(MASTER_KEY, NONCE, kind, binding, plaintext).hex())

print("# data/client_blob.rs: master key a0 .. bf, IV 10 .. 1b")
for json in ('"Buy milk"', '""', "42", '{"a":1,"b":["x",null]}'):
    sealed = AESGCM(MASTER_KEY).encrypt(IV, json.encode(), None)
    print(json, "enc:1:" + b64encode(IV).decode() + "." + b64encode(sealed).decode())

print("# data/recovery.rs: master key a0 .. bf, challenge 40 .. 5f; recovery secret 00 .. 1f, IV 10 .. 1b")
print("PROOF", hmac_sha256(MASTER_KEY, b"vault_ext.recovery-proof.v1" + bytes(range(0x40, 0x60))).hex())
RECOVERY_KEY = hkdf(bytes(range(32)), b"", b"mana-recovery-v1")
print("RECOVERY_KEY", RECOVERY_KEY.hex())
print("RECOVERY_WRAP", b64encode(AESGCM(RECOVERY_KEY).encrypt(IV, MASTER_KEY, None)).decode())
