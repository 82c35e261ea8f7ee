"""Notes that are encrypted with their owner's key before they reach the database. With asyncpg, its pool and aiohttp."""

import base64
import json
import os
import secrets

import asyncpg
from aiohttp import web
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

POOL = web.AppKey("pool", asyncpg.Pool)


# --- The glue: who the user is, and what is encrypted ---


async def pool(application):
    # The usual variables (PGHOST, PGUSER…) say where the database is. Without prepared statements the application also works
    # behind a pooler in transaction mode.
    async with asyncpg.create_pool(min_size=2, max_size=4, statement_cache_size=0) as application[POOL]:
        yield


@web.middleware
async def vault(request, handler):
    """A transaction for each request. The settings end with it, so the next user of the connection starts without any."""
    try:
        async with request.app[POOL].acquire() as connection, connection.transaction():
            await connection.execute(
                "SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)",
                # X-User stands for what your session or your token says.
                request.headers.get("X-User", ""),
                request.headers.get("X-Request-Id", ""),
            )
            return await handler(request, connection)
    except asyncpg.NoDataFoundError:  # P0002
        return web.json_response({"error": "this user has no vault yet"}, status=404)
    except asyncpg.InvalidAuthorizationSpecificationError:  # 28000
        return web.json_response({"error": "who are you?"}, status=401)


def encrypt(master_key, value):
    """enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too."""
    iv = secrets.token_bytes(12)
    ciphertext = AESGCM(base64.b64decode(master_key)).encrypt(iv, json.dumps(value, ensure_ascii=False).encode(), None)
    return f"enc:1:{base64.b64encode(iv).decode()}.{base64.b64encode(ciphertext).decode()}"


def decrypt(master_key, blob):
    iv, ciphertext = (base64.b64decode(part) for part in blob.removeprefix("enc:1:").split("."))
    return json.loads(AESGCM(base64.b64decode(master_key)).decrypt(iv, ciphertext, None))


# --- The application ---

routes = web.RouteTableDef()


@routes.post("/notes")
async def add_note(request, connection):
    key = await connection.fetchrow("SELECT master_key, key_version FROM vault_init()")
    await connection.execute(
        "INSERT INTO notes (body, key_version) VALUES ($1, $2)",
        encrypt(key["master_key"], await request.text()),
        key["key_version"],
    )
    return web.json_response({}, status=201)


@routes.get("/notes")
async def notes(request, connection):
    key = await connection.fetchrow("SELECT master_key, key_version FROM vault_get_master_key()")
    return web.json_response([text for _, text in await opened(connection, key)])


async def opened(connection, key):
    """The ids and the texts. A note that was written during a rotation may still be under an older key."""
    keys = {key["key_version"]: key["master_key"]}
    rows = await connection.fetch("SELECT id, body, key_version FROM notes ORDER BY id")
    for version in {row["key_version"] for row in rows} - keys.keys():
        keys[version] = await connection.fetchval("SELECT master_key FROM vault_get_key_version($1)", version)
    return [(row["id"], decrypt(keys[row["key_version"]], row["body"])) for row in rows]


@routes.post("/rotate")
async def rotate(request, connection):
    key = await connection.fetchrow("SELECT master_key, key_version FROM vault_rotate()")
    for note, text in await opened(connection, key):
        await connection.execute(
            "UPDATE notes SET body = $1, key_version = $2 WHERE id = $3",
            encrypt(key["master_key"], text),
            key["key_version"],
            note,
        )
    return web.json_response({})


if __name__ == "__main__":
    application = web.Application(middlewares=[vault])
    application.cleanup_ctx.append(pool)
    application.add_routes(routes)
    web.run_app(application, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
