"""What asyncpg makes of the forms of a call, as docs/how-to/stacks.md says."""

import asyncio

import asyncpg


async def for_user(connection, user):
    await connection.execute(
        "SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)", user, f"forms by {user}"
    )


async def main():
    connection = await asyncpg.connect(statement_cache_size=0)
    async with connection.transaction():
        await for_user(connection, "forms")
        key = await connection.fetchrow("SELECT * FROM vault_init()")
        assert [type(key[name]) for name in ("master_key", "key_version", "requires_recovery_code")] == [str, int, bool]
        assert await connection.fetchrow("SELECT (vault_get_master_key()).*") == key
        assert await connection.fetchval("SELECT vault_get_master_key()") == key  # a Record, too
    try:
        async with connection.transaction():
            await for_user(connection, "nobody")
            await connection.fetchrow("SELECT * FROM vault_get_master_key()")
        raise AssertionError("a key without a vault")
    except asyncpg.NoDataFoundError as error:
        assert error.sqlstate == "P0002" and error.hint.startswith("Call vault_init()")
    await connection.close()


asyncio.run(main())
