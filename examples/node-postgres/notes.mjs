// Notes that are encrypted with their owner's key before they reach the database. With node-postgres and its pool.
import { webcrypto } from "node:crypto"; // from Node 20 on, it is globalThis.crypto
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import pg from "pg";

// The usual variables (PGHOST, PGUSER…) say where the database is.
const pool = new pg.Pool({ max: 4 });

// --- The glue: who the user is, and what is encrypted ---

// A transaction for one user. The settings end with it, so the next user of the connection starts without any.
async function transaction(user, requestId, call) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query(
      "SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)",
      [user ?? "", requestId ?? ""],
    );
    const answer = await call(client);
    await client.query("COMMIT");
    return answer;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

const aesKey = (masterKey, use) =>
  webcrypto.subtle.importKey("raw", Buffer.from(masterKey, "base64"), "AES-GCM", false, [use]);

// enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too.
async function encrypt(masterKey, value) {
  const iv = webcrypto.getRandomValues(Buffer.alloc(12));
  const plaintext = Buffer.from(JSON.stringify(value));
  const ciphertext = await webcrypto.subtle.encrypt({ name: "AES-GCM", iv }, await aesKey(masterKey, "encrypt"), plaintext);
  return `enc:1:${iv.toString("base64")}.${Buffer.from(ciphertext).toString("base64")}`;
}

async function decrypt(masterKey, blob) {
  const [iv, ciphertext] = blob.slice("enc:1:".length).split(".").map((part) => Buffer.from(part, "base64"));
  const plaintext = await webcrypto.subtle.decrypt({ name: "AES-GCM", iv }, await aesKey(masterKey, "decrypt"), ciphertext);
  return JSON.parse(Buffer.from(plaintext).toString());
}

// --- The application ---

async function addNote(client, note) {
  const { rows: [key] } = await client.query("SELECT master_key, key_version FROM vault_init()");
  await client.query("INSERT INTO notes (body, key_version) VALUES ($1, $2)", [await encrypt(key.master_key, note), key.key_version]);
}

async function notes(client) {
  const { rows: [key] } = await client.query("SELECT master_key, key_version FROM vault_get_master_key()");
  return (await opened(client, key)).map((note) => note.text);
}

// The ids and the texts. A note that was written during a rotation may still be under an older key.
async function opened(client, key) {
  const keys = new Map([[key.key_version, key.master_key]]);
  const { rows } = await client.query("SELECT id, body, key_version FROM notes ORDER BY id");
  const texts = [];
  for (const { id, body, key_version } of rows) {
    if (!keys.has(key_version)) {
      const { rows: [older] } = await client.query("SELECT master_key FROM vault_get_key_version($1)", [key_version]);
      keys.set(key_version, older.master_key);
    }
    texts.push({ id, text: await decrypt(keys.get(key_version), body) });
  }
  return texts;
}

async function rotate(client) {
  const { rows: [key] } = await client.query("SELECT master_key, key_version FROM vault_rotate()");
  for (const { id, text } of await opened(client, key)) {
    const body = await encrypt(key.master_key, text);
    await client.query("UPDATE notes SET body = $1, key_version = $2 WHERE id = $3", [body, key.key_version, id]);
  }
}

const calls = { "GET /notes": [200, notes], "POST /notes": [201, addNote], "POST /rotate": [200, rotate] };
const refusals = { P0002: [404, { error: "this user has no vault yet" }], 28000: [401, { error: "who are you?" }] };

async function answer(request) {
  const [status, call] = calls[`${request.method} ${request.url}`];
  const body = await text(request);
  // X-User stands for what your session or your token says.
  const { "x-user": user, "x-request-id": requestId } = request.headers;
  return [status, await transaction(user, requestId, (client) => call(client, body))];
}

createServer((request, response) =>
  answer(request)
    .catch((error) => {
      if (error.code in refusals) return refusals[error.code];
      console.error(error);
      return [500, { error: "internal error" }];
    })
    .then(([status, value]) => response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value))),
).listen(process.env.PORT, "127.0.0.1");
