// What the browser does: it gets the user's key and encrypts the notes before they leave it.
import { webcrypto as crypto } from "node:crypto"; // in a browser, and from Node 20 on, it is globalThis.crypto

const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const aesKey = (masterKey, use) => crypto.subtle.importKey("raw", bytes(masterKey), "AES-GCM", false, [use]);

// enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too.
async function encrypt(masterKey, value) {
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const plaintext = new TextEncoder().encode(JSON.stringify(value));
  const ciphertext = await crypto.subtle.encrypt({ name: "AES-GCM", iv }, await aesKey(masterKey, "encrypt"), plaintext);
  return `enc:1:${base64(iv)}.${base64(ciphertext)}`;
}

async function decrypt(masterKey, blob) {
  const [iv, ciphertext] = blob.slice("enc:1:".length).split(".").map(bytes);
  const plaintext = await crypto.subtle.decrypt({ name: "AES-GCM", iv }, await aesKey(masterKey, "decrypt"), ciphertext);
  return JSON.parse(new TextDecoder().decode(plaintext));
}

// `graphql(query, variables)` sends a request as the user and gives its data.
export async function addNote(graphql, note) {
  const { initVault: { vault } } = await graphql("mutation { initVault(input: {}) { vault { masterKey keyVersion } } }");
  await graphql("mutation ($note: NoteInput!) { createNote(input: { note: $note }) { clientMutationId } }", {
    note: { body: await encrypt(vault.masterKey, note), keyVersion: vault.keyVersion },
  });
}

export async function notes(graphql) {
  const { vault } = await graphql("{ vault { masterKey keyVersion } }");
  const { allNotes } = await graphql("{ allNotes(orderBy: ID_ASC) { nodes { body keyVersion } } }");
  // A note that was written during a rotation may still be under an older key.
  const keys = new Map([[vault.keyVersion, vault.masterKey]]);
  const texts = [];
  for (const { body, keyVersion } of allNotes.nodes) {
    if (!keys.has(keyVersion)) {
      const { oldVault } = await graphql("query ($version: Int!) { oldVault(version: $version) { masterKey } }", { version: keyVersion });
      keys.set(keyVersion, oldVault.masterKey);
    }
    texts.push(await decrypt(keys.get(keyVersion), body));
  }
  return texts;
}

export const rotate = (graphql) => graphql("mutation { rotateVault(input: {}) { integer } }");
