// What Kysely makes of the forms of a call, as docs/how-to/stacks.md says.
import assert from "node:assert/strict";
import { Kysely, PostgresDialect, sql } from "kysely";
import pg from "pg";

const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) });

const transaction = (user: string, statement: string): Promise<any> =>
  db.transaction().execute(async (tx) => {
    await sql`SELECT set_config('app.current_user_id', ${user}, true), set_config('app.request_id', ${`forms by ${user}`}, true)`.execute(tx);
    return (await sql.raw(statement).execute(tx)).rows[0];
  });

const key = await transaction("forms", "SELECT * FROM vault_init()");
const types = ["master_key", "key_version", "requires_recovery_code"].map((name) => typeof key[name]);
assert.deepEqual(types, ["string", "number", "boolean"]);
// Comparisons without a message print no key.
assert(JSON.stringify(await transaction("forms", "SELECT (vault_get_master_key()).*")) === JSON.stringify(key));
const { whole } = await transaction("forms", "SELECT vault_get_master_key() AS whole");
assert(whole === `(${key.master_key},2,${key.kek_id},1,f,,)`);
await assert.rejects(transaction("nobody", "SELECT * FROM vault_get_master_key()"), { code: "P0002", hint: /^Call vault_init\(\)/ });
await db.destroy();
