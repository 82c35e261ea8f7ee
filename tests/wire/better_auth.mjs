// Makes a token with the real package and prints it with the rows that it belongs to: tests/wire/better_auth.json.
//   mkdir /tmp/better-auth && cd /tmp/better-auth && npm install better-auth
//   cp …/tests/wire/better_auth.mjs . && node better_auth.mjs > …/tests/wire/better_auth.json
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { jwt } from "better-auth/plugins";

const db = { user: [], session: [], account: [], verification: [], jwks: [] };
const auth = betterAuth({
  baseURL: "https://auth.example",
  secret: "a secret of this script alone, 0123456789",
  database: memoryAdapter(db),
  emailAndPassword: { enabled: true },
  plugins: [jwt({ jwt: { audience: "https://db.example/vault" } })],
  logger: { disabled: true },
  telemetry: { enabled: false },
});
const body = { email: "alice@example.com", password: "correct horse battery", name: "Alice" };
const signedUp = await auth.api.signUpEmail({ body, asResponse: true });
const cookie = signedUp.headers.getSetCookie().map((text) => text.split(";")[0]).join("; ");
const { token } = await auth.api.getToken({ headers: new Headers({ cookie }) });
const { id, publicKey } = db.jwks[0];
console.log(JSON.stringify({ token, user: db.user[0].id, jwks: await auth.api.getJwks({}), row: { id, publicKey } }, null, 1));
