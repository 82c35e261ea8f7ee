// What Prisma makes of the forms of a call, as docs/how-to/stacks.md says.
import assert from "node:assert/strict";
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client";

const prisma = new PrismaClient({ adapter: new PrismaPg({}) });

const transaction = (user: string, statement: string): Promise<any> =>
  prisma.$transaction(async (tx) => {
    await tx.$queryRaw`SELECT set_config('app.current_user_id', ${user}, true), set_config('app.request_id', ${`forms by ${user}`}, true)`;
    return (await tx.$queryRawUnsafe<unknown[]>(statement))[0];
  });

const key = await transaction("forms", "SELECT * FROM vault_init()");
const types = ["master_key", "key_version", "requires_recovery_code"].map((name) => typeof key[name]);
assert.deepEqual(types, ["string", "number", "boolean"]);
// Comparisons without a message print no key.
assert(JSON.stringify(await transaction("forms", "SELECT (vault_get_master_key()).*")) === JSON.stringify(key));
const { whole } = await transaction("forms", "SELECT vault_get_master_key() AS whole");
assert(whole === `(${key.master_key},2,${key.kek_id},1,f,,)`);
await assert.rejects(transaction("nobody", "SELECT * FROM vault_get_master_key()"), (error: any) => {
  assert.equal(error.code, "P2010");
  assert.equal(error.meta.driverAdapterError.cause.originalCode, "P0002");
  assert.match(error.meta.driverAdapterError.cause.hint, /^Call vault_init\(\)/);
  return true;
});
await prisma.$disconnect();
