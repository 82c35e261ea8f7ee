// Notes that are encrypted with their owner's key before they reach the database. With Drizzle on node-postgres.
import { webcrypto } from "node:crypto"; // from Node 20 on, it is globalThis.crypto
import { createServer, type IncomingMessage } from "node:http";
import { text as textOf } from "node:stream/consumers";
import { type SQL, asc, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { bigint, integer, pgTable, text } from "drizzle-orm/pg-core";
import pg from "pg";

const table = pgTable("notes", {
  id: bigint({ mode: "bigint" }).primaryKey().generatedAlwaysAsIdentity(),
  owner: text().notNull().default(sql`vault_user_id()`),
  body: text().notNull(),
  keyVersion: integer("key_version").notNull(),
});

// The usual variables (PGHOST, PGUSER…) say where the database is.
const db = drizzle({ client: new pg.Pool({ max: 4 }) });

// --- The glue: who the user is, and what is encrypted ---

type Transaction = Parameters<Parameters<typeof db.transaction>[0]>[0];
type Key = { master_key: string; key_version: number };

// A transaction for one user. The settings end with it, so the next user of the connection starts without any.
const transaction = <T>(user: string, requestId: string, call: (tx: Transaction) => Promise<T>) =>
  db.transaction(async (tx) => {
    await tx.execute(sql`SELECT set_config('app.current_user_id', ${user}, true), set_config('app.request_id', ${requestId}, true)`);
    return call(tx);
  });

async function keyOf(tx: Transaction, call: SQL) {
  const { rows: [key] } = await tx.execute<Key>(sql`SELECT master_key, key_version FROM ${call}`);
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
  await tx.insert(table).values({ body: await encrypt(key.master_key, note), keyVersion: key.key_version });
}

async function notes(tx: Transaction) {
  return (await opened(tx, await keyOf(tx, sql`vault_get_master_key()`))).map((note) => note.text);
}

// The ids and the texts. A note that was written during a rotation may still be under an older key.
async function opened(tx: Transaction, key: Key) {
  const keys = new Map([[key.key_version, key]]);
  const texts = [];
  for (const { id, body, keyVersion } of await tx.select().from(table).orderBy(asc(table.id))) {
    if (!keys.has(keyVersion)) keys.set(keyVersion, await keyOf(tx, sql`vault_get_key_version(${keyVersion})`));
    texts.push({ id, text: await decrypt(keys.get(keyVersion)!.master_key, body) });
  }
  return texts;
}

async function rotate(tx: Transaction) {
  const key = await keyOf(tx, sql`vault_rotate()`);
  for (const { id, text } of await opened(tx, key)) {
    const body = await encrypt(key.master_key, text);
    await tx.update(table).set({ body, keyVersion: key.key_version }).where(eq(table.id, id));
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
      const { code } = error.cause ?? error; // Drizzle wraps the driver's error
      if (code in refusals) return refusals[code]!;
      console.error(error);
      return [500, { error: "internal error" }];
    })
    .then(([status, value]) => response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value))),
).listen(Number(process.env.PORT), "127.0.0.1");
