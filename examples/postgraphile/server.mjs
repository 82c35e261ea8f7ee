// GraphQL for the notes and the keys of their owners. The browser encrypts: see client.mjs. With PostGraphile 4.
import { createServer } from "node:http";
import { postgraphile } from "postgraphile";

const refusals = { P0002: 404, 28000: 401 };

// The usual variables (PGHOST, PGUSER…) say where the database is.
createServer(
  postgraphile({ max: 4 }, ["public", "api"], {
    ignoreRBAC: false, // show only what the role may use
    disableQueryLog: true,
    // The settings of the request's transaction. X-User stands for what your session or your token says.
    pgSettings: ({ headers }) => ({
      "app.current_user_id": headers["x-user"] ?? "",
      "app.request_id": headers["x-request-id"] ?? "",
    }),
    handleErrors: (errors, _request, response) => {
      const code = errors.map(({ originalError }) => originalError?.code).find((code) => code in refusals);
      if (code) response.statusCode = refusals[code];
      return errors.map(({ message, path }) => ({ message, path, code }));
    },
  }),
).listen(process.env.PORT, "127.0.0.1");
