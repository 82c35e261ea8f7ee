// What node-postgres makes of the forms of a call, as docs/how-to/stacks.md says.
import assert from "node:assert/strict";
import pg from "pg";

const client = new pg.Client();
await client.connect();

async function transaction(user, statement) {
  await client.query("BEGIN");
  await client.query("SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)", [user, `forms by ${user}`]);
  const { rows } = await client.query(statement).finally(() => client.query("COMMIT"));
  return rows[0];
}

const key = await transaction("forms", "SELECT * FROM vault_init()");
const types = [key.master_key, key.key_version, key.requires_recovery_code].map((value) => typeof value);
assert.deepEqual(types, ["string", "number", "boolean"]);
// Comparisons without a message print no key.
assert(JSON.stringify(await transaction("forms", "SELECT (vault_get_master_key()).*")) === JSON.stringify(key));
const { whole } = await transaction("forms", "SELECT vault_get_master_key() AS whole");
assert(whole === `(${key.master_key},2,${key.kek_id},1,f,,)`);
await assert.rejects(transaction("nobody", "SELECT * FROM vault_get_master_key()"), { code: "P0002", hint: /^Call vault_init\(\)/ });
await client.end();
