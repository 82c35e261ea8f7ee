// Uses the GraphQL server as browsers would, and checks what they see: ../check.py, in GraphQL.
import assert from "node:assert/strict";
import { addNote, notes, rotate } from "./client.mjs";

// What the functions of client.mjs need to send requests as this user. X-Request-Id is what ../check.sql looks for.
const as = (user, request) => async (query, variables) => {
  const headers = { "Content-Type": "application/json", "X-Request-Id": `${request} by ${user ?? "None"}`, ...(user && { "X-User": user }) };
  const response = await fetch(`http://127.0.0.1:${process.env.PORT}/graphql`, { method: "POST", headers, body: JSON.stringify({ query, variables }) });
  const { data, errors } = await response.json();
  if (errors) throw Object.assign(new Error(`${query}: ${JSON.stringify(errors)}`), { status: response.status, code: errors[0].code });
  return data;
};
const notesOf = (user) => notes(as(user, "GET /notes"));
const add = (user, note) => addNote(as(user, "POST /notes"), note);

for (const deadline = Date.now() + 120_000; ; ) {
  if (await fetch(`http://127.0.0.1:${process.env.PORT}/`).catch(() => false)) break;
  assert(Date.now() < deadline, "the server does not listen");
  await new Promise((resolve) => setTimeout(resolve, 100));
}

await assert.rejects(notesOf(undefined), { status: 401, code: "28000" });
await assert.rejects(notesOf("bob"), { status: 404, code: "P0002" });
await add("alice", "Buy milk");
await add("alice", 'Käse, 🧀 and "bread"\n\\');
await add("bob", "Feed the cat");
assert.deepEqual(await notesOf("alice"), ["Buy milk", 'Käse, 🧀 and "bread"\n\\']);
assert.deepEqual(await notesOf("bob"), ["Feed the cat"]);
await rotate(as("alice", "POST /rotate"));
assert.deepEqual(await notesOf("alice"), ["Buy milk", 'Käse, 🧀 and "bread"\n\\']);
await add("alice", "Water the plants");
// Old versions of the key remain.
const old = await as("alice", "GET /notes")("{ vault { masterKey } oldVault(version: 1) { masterKey keyVersion } }");
assert.equal(old.oldVault.keyVersion, 1);
assert(old.oldVault.masterKey !== old.vault.masterKey); // notEqual would print them
// Users who come at the same time share the pool's connections.
const users = Array.from({ length: 20 }, (_, number) => `user-${number}`);
await Promise.all([...users, ...users].map((user) => add(user, `I am ${user}`)));
for (const user of users) assert.deepEqual(await notesOf(user), [`I am ${user}`, `I am ${user}`]);
// A connection that goes back to the pool forgets its user.
for (let time = 0; time < 10; time++) await assert.rejects(notesOf(undefined), { status: 401, code: "28000" });
