// What Drizzle makes of the forms of a call, as docs/how-to/stacks.md says.
import assert from "node:assert/strict";
import { type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import pg from "pg";

const pool = new pg.Pool();
const db = drizzle({ client: pool });

const transaction = (user: string, statement: string | SQL): Promise<any> =>
  db.transaction(async (tx) => {
    await tx.execute(sql`SELECT set_config('app.current_user_id', ${user}, true), set_config('app.request_id', ${`forms by ${user}`}, true)`);
    return (await tx.execute(typeof statement === "string" ? sql.raw(statement) : statement)).rows[0];
  });

const key = await transaction("forms", "SELECT * FROM vault_init()");
const types = ["master_key", "key_version", "requires_recovery_code"].map((name) => typeof key[name]);
assert.deepEqual(types, ["string", "number", "boolean"]);
// Comparisons without a message print no key.
assert(JSON.stringify(await transaction("forms", "SELECT (vault_get_master_key()).*")) === JSON.stringify(key));
const { whole } = await transaction("forms", "SELECT vault_get_master_key() AS whole");
assert(whole === `(${key.master_key},2,${key.kek_id},1,f,,)`);
await assert.rejects(transaction("nobody", sql`SELECT * FROM vault_get_master_key() WHERE ${"Buy milk"} <> ''`), (error: any) => {
  assert.equal(error.cause.code, "P0002");
  assert.match(error.cause.hint, /^Call vault_init\(\)/);
  assert.match(error.message, /Buy milk/); // the parameters stand in the message
  return true;
});
await pool.end();
