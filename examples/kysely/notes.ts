// Notes that are encrypted with their owner's key before they reach the database. With Kysely on node-postgres.
import { webcrypto } from "node:crypto"; // from Node 20 on, it is globalThis.crypto
import { createServer, type IncomingMessage } from "node:http";
import { text as textOf } from "node:stream/consumers";
import { type Generated, type RawBuilder, Kysely, PostgresDialect, type Transaction as KyselyTransaction, sql } from "kysely";
import pg from "pg";

interface Database {
  notes: { id: Generated<string>; owner: Generated<string>; body: string; key_version: number };
}

// The usual variables (PGHOST, PGUSER…) say where the database is.
const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool: new pg.Pool({ max: 4 }) }) });

// --- The glue: who the user is, and what is encrypted ---

type Transaction = KyselyTransaction<Database>;
type Key = { master_key: string; key_version: number };

// A transaction for one user. The settings end with it, so the next user of the connection starts without any.
const transaction = <T>(user: string, requestId: string, call: (tx: Transaction) => Promise<T>) =>
  db.transaction().execute(async (tx) => {
    await sql`SELECT set_config('app.current_user_id', ${user}, true), set_config('app.request_id', ${requestId}, true)`.execute(tx);
    return call(tx);
  });

async function keyOf(tx: Transaction, call: RawBuilder<unknown>) {
  const { rows: [key] } = await sql<Key>`SELECT master_key, key_version FROM ${call}`.execute(tx);
  return key!;
}

const aesKey = (masterKey: string, use: "encrypt" | "decrypt") =>
  webcrypto.subtle.importKey("raw", Buffer.from(masterKey, "base64"), "AES-GCM", false, [use]);

// enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too.
async function encrypt(masterKey: string, value: unknown) {
  const iv = webcrypto.getRandomValues(Buffer.alloc(12));
  const plaintext = Buffer.from(JSON.stringify(value));
  const ciphertext = await webcrypto.subtle.encrypt({ name: "AES-GCM", iv }, await aesKey(masterKey, "encrypt"), plaintext);
  return `enc:1:${iv.toString("base64")}.${Buffer.from(ciphertext).toString("base64")}`;
}

async function decrypt(masterKey: string, blob: string) {
  const [iv, ciphertext] = blob.slice("enc:1:".length).split(".").map((part) => Buffer.from(part, "base64"));
  const plaintext = await webcrypto.subtle.decrypt({ name: "AES-GCM", iv: iv! }, await aesKey(masterKey, "decrypt"), ciphertext!);
  return JSON.parse(Buffer.from(plaintext).toString());
}

// --- The application ---

async function addNote(tx: Transaction, note: string) {
  const key = await keyOf(tx, sql`vault_init()`);
  const body = await encrypt(key.master_key, note);
  await tx.insertInto("notes").values({ body, key_version: key.key_version }).execute();
}

async function notes(tx: Transaction) {
  return (await opened(tx, await keyOf(tx, sql`vault_get_master_key()`))).map((note) => note.text);
}

// The ids and the texts. A note that was written during a rotation may still be under an older key.
async function opened(tx: Transaction, key: Key) {
  const keys = new Map([[key.key_version, key]]);
  const texts = [];
  for (const { id, body, key_version } of await tx.selectFrom("notes").selectAll().orderBy("id").execute()) {
    if (!keys.has(key_version)) keys.set(key_version, await keyOf(tx, sql`vault_get_key_version(${key_version})`));
    texts.push({ id, text: await decrypt(keys.get(key_version)!.master_key, body) });
  }
  return texts;
}

async function rotate(tx: Transaction) {
  const key = await keyOf(tx, sql`vault_rotate()`);
  for (const { id, text } of await opened(tx, key)) {
    const body = await encrypt(key.master_key, text);
    await tx.updateTable("notes").set({ body, key_version: key.key_version }).where("id", "=", id).execute();
  }
}

type Call = (tx: Transaction, body: string) => Promise<unknown>;
const calls: Record<string, [number, Call]> = {
  "GET /notes": [200, notes],
  "POST /notes": [201, addNote],
  "POST /rotate": [200, rotate],
};
const refusals: Record<string, [number, unknown]> = {
  P0002: [404, { error: "this user has no vault yet" }],
  28000: [401, { error: "who are you?" }],
};

async function answer(request: IncomingMessage): Promise<[number, unknown]> {
  const [status, call] = calls[`${request.method} ${request.url}`]!;
  const body = await textOf(request);
  // X-User stands for what your session or your token says.
  const header = (name: string) => String(request.headers[name] ?? "");
  return [status, await transaction(header("x-user"), header("x-request-id"), (tx) => call(tx, body))];
}

createServer((request, response) =>
  answer(request)
    .catch((error): [number, unknown] => {
      if (error.code in refusals) return refusals[error.code]!;
      console.error(error);
      return [500, { error: "internal error" }];
    })
    .then(([status, value]) => response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value))),
).listen(Number(process.env.PORT), "127.0.0.1");
