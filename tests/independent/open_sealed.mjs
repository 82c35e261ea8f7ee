#!/usr/bin/env node
// Opens a sealed key with none of the project's code, and prints it as base64.
//
//     open_sealed.mjs KEY.pem SEALED KIND USER_ID VERSION PURPOSE
//     open_sealed.mjs --check
//
// The arguments are those of open_sealed.py. RSA-OAEP goes through Web Crypto, as in the predecessor's runner. HPKE is
// written out from RFC 9180 over node:crypto, since Node 18's Web Crypto has no stable X25519.

import { createDecipheriv, createHmac, createPrivateKey, createPublicKey, diffieHellman, webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";

const INFO = Buffer.from("vault_ext.seal.v1");
const KEM_SUITE = Buffer.from("KEM\x00\x20");
const SPKI_PREFIX = Buffer.from("302a300506032b656e032100", "hex");
const PKCS8_PREFIX = Buffer.from("302e020100300506032b656e04220420", "hex");
// AEAD ids of RFC 9180, section 7.3, and the names of their ciphers, by the length of their key.
const AEADS = { 16: [1, "aes-128-gcm"], 32: [2, "aes-256-gcm"] };

const u16 = (number) => Buffer.from([number >> 8, number & 0xff]);
const hmac = (key, ...parts) => createHmac("sha256", key).update(Buffer.concat(parts)).digest();

function labeledExtract(suite, salt, label, ikm) {
  return hmac(salt.length ? salt : Buffer.alloc(32), Buffer.from("HPKE-v1"), suite, Buffer.from(label), ikm);
}

// One block of HKDF is enough: nothing here is longer than 32 bytes.
function labeledExpand(suite, prk, label, info, length) {
  const labeled = Buffer.concat([u16(length), Buffer.from("HPKE-v1"), suite, Buffer.from(label), info]);
  return hmac(prk, labeled, Buffer.from([1])).subarray(0, length);
}

// Base mode (section 5.1.1), one message with sequence number 0.
function hpkeOpen(privateKey, info, aad, sealed, keyLength = 32) {
  const enc = sealed.subarray(0, 32);
  const body = sealed.subarray(32, -16);
  const tag = sealed.subarray(-16);
  const publicKey = createPublicKey(privateKey).export({ format: "der", type: "spki" }).subarray(-32);
  const ephemeral = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, enc]), format: "der", type: "spki" });
  const dh = diffieHellman({ privateKey, publicKey: ephemeral });
  const none = Buffer.alloc(0);
  const prk = labeledExtract(KEM_SUITE, none, "eae_prk", dh);
  const shared = labeledExpand(KEM_SUITE, prk, "shared_secret", Buffer.concat([enc, publicKey]), 32);

  const [aeadId, cipher] = AEADS[keyLength];
  const suite = Buffer.concat([Buffer.from("HPKE"), u16(0x20), u16(1), u16(aeadId)]);
  const pskIdHash = labeledExtract(suite, none, "psk_id_hash", none);
  const infoHash = labeledExtract(suite, none, "info_hash", info);
  const context = Buffer.concat([Buffer.from([0]), pskIdHash, infoHash]);
  const secret = labeledExtract(suite, shared, "secret", none);
  const key = labeledExpand(suite, secret, "key", context, keyLength);
  const nonce = labeledExpand(suite, secret, "base_nonce", context, 12);

  const decipher = createDecipheriv(cipher, key, nonce, { authTagLength: 16 });
  decipher.setAAD(aad);
  decipher.setAuthTag(tag);
  return Buffer.concat([decipher.update(body), decipher.final()]);
}

const part = (bytes) => Buffer.concat([u16(bytes.length), bytes]);

function binding(kind, userId, version, purpose) {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(Number(version));
  let parts = [Buffer.from(purpose)];
  if (kind === "hkdf") {
    const colon = purpose.indexOf(":");
    parts = [Buffer.from(purpose.slice(0, colon), "hex"), Buffer.from(purpose.slice(colon + 1))];
  }
  return Buffer.concat([part(Buffer.from(`${kind}-key`)), part(Buffer.from(userId)), number, ...parts.map(part)]);
}

async function rsaOpen(pem, sealed) {
  const der = Buffer.from(pem.replace(/-----[A-Z ]+-----|\s/g, ""), "base64");
  const algorithm = { name: "RSA-OAEP", hash: "SHA-256" };
  const key = await webcrypto.subtle.importKey("pkcs8", der, algorithm, false, ["decrypt"]);
  return Buffer.from(await webcrypto.subtle.decrypt({ name: "RSA-OAEP" }, key, sealed));
}

// The vector of RFC 9180, appendix A.1.1.
function check() {
  const secret = Buffer.from("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8", "hex");
  const privateKey = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, secret]), format: "der", type: "pkcs8" });
  const sealed = Buffer.from(
    "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431" +
      "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
    "hex",
  );
  const opened = hpkeOpen(privateKey, Buffer.from("Ode on a Grecian Urn"), Buffer.from("Count-0"), sealed, 16);
  if (opened.toString() !== "Beauty is truth, truth beauty") throw new Error("the vector of RFC 9180 does not open");
  console.log("ok");
}

async function open([keyFile, sealedText, kind, userId, version, purpose]) {
  const pem = readFileSync(keyFile, "utf8");
  const privateKey = createPrivateKey(pem);
  const sealed = Buffer.from(sealedText, "base64");
  switch (privateKey.asymmetricKeyType) {
    case "rsa":
      return rsaOpen(pem, sealed);
    case "x25519":
      return hpkeOpen(privateKey, INFO, binding(kind, userId, version, purpose), sealed);
    default:
      throw new Error("the key is neither X25519 nor RSA");
  }
}

const args = process.argv.slice(2);
if (args.length === 1 && args[0] === "--check") {
  check();
} else if (args.length === 6) {
  try {
    console.log((await open(args)).toString("base64"));
  } catch {
    console.error("the sealed key does not open");
    process.exit(1);
  }
} else {
  console.error("usage: open_sealed.mjs KEY.pem SEALED KIND USER_ID VERSION PURPOSE");
  process.exit(2);
}
