#!/usr/bin/env python3
"""Opens a sealed key with none of the project's code, and prints it as base64.

    open_sealed.py KEY.pem SEALED KIND USER_ID VERSION PURPOSE
    open_sealed.py --check

KEY.pem is the private key (PKCS #8), SEALED the sealed bytes in base64, KIND "master", "derived" or "hkdf", and PURPOSE
"" for a master key, and the salt in hexadecimal, a colon and the info for KIND "hkdf". An X25519 key opens HPKE. An RSA key opens RSA-OAEP with SHA-256, which binds none of the arguments after
SEALED.
--check opens the vector of RFC 9180, appendix A.1.1.

HPKE is written out from RFC 9180, since python3-cryptography of Debian 12 has only its parts.
"""

import base64
import hashlib
import hmac
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

INFO = b"vault_ext.seal.v1"
KEM_ID, KDF_ID = 0x0020, 0x0001
KEM_SUITE = b"KEM" + struct.pack(">H", KEM_ID)
# AEAD ids of RFC 9180, section 7.3, by the length of their key.
AEAD_IDS = {16: 0x0001, 32: 0x0002}


def extract(salt, ikm):
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def expand(prk, info, length):
    blocks, block = b"", b""
    while len(blocks) < length:
        block = hmac.new(prk, block + info + bytes([len(blocks) // 32 + 1]), hashlib.sha256).digest()
        blocks += block
    return blocks[:length]


def labeled_extract(suite, salt, label, ikm):
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite, prk, label, info, length):
    return expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)


def hpke_open(private_key, info, aad, sealed, key_len=32):
    """Base mode (section 5.1.1), one message with sequence number 0."""
    enc, ciphertext = sealed[:32], sealed[32:]
    public = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    dh = private_key.exchange(X25519PublicKey.from_public_bytes(enc))
    prk = labeled_extract(KEM_SUITE, b"", b"eae_prk", dh)
    shared = labeled_expand(KEM_SUITE, prk, b"shared_secret", enc + public, 32)

    suite = b"HPKE" + struct.pack(">HHH", KEM_ID, KDF_ID, AEAD_IDS[key_len])
    psk_id_hash = labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = labeled_extract(suite, b"", b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", context, key_len)
    nonce = labeled_expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def part(data):
    return struct.pack(">H", len(data)) + data


def binding(kind, user_id, version, purpose):
    parts = [purpose.encode()]
    if kind == "hkdf":
        salt, info = purpose.split(":", 1)
        parts = [bytes.fromhex(salt), info.encode()]
    before = part(kind.encode() + b"-key") + part(user_id.encode()) + struct.pack(">I", int(version))
    return before + b"".join(map(part, parts))


def check():
    sealed = bytes.fromhex(
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    private_key = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    )
    plaintext = hpke_open(private_key, b"Ode on a Grecian Urn", b"Count-0", sealed, key_len=16)
    assert plaintext == b"Beauty is truth, truth beauty", plaintext
    print("ok")


def main():
    if sys.argv[1:] == ["--check"]:
        return check()
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    key_file, sealed, kind, user_id, version, purpose = sys.argv[1:]
    with open(key_file, "rb") as file:
        private_key = load_pem_private_key(file.read(), password=None)
    sealed = base64.b64decode(sealed, validate=True)
    try:
        if isinstance(private_key, RSAPrivateKey):
            sha256 = hashes.SHA256()
            key = private_key.decrypt(sealed, padding.OAEP(padding.MGF1(sha256), sha256, None))
        elif isinstance(private_key, X25519PrivateKey):
            key = hpke_open(private_key, INFO, binding(kind, user_id, version, purpose), sealed)
        else:
            sys.exit("the key is neither X25519 nor RSA")
    except (InvalidTag, ValueError):
        sys.exit("the sealed key does not open")
    print(base64.b64encode(key).decode())


main()
