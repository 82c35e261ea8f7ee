"""What psycopg makes of the forms of a call, as docs/how-to/stacks.md says."""

from psycopg import errors
from psycopg.types.composite import CompositeInfo, register_composite

from notes import transaction

with transaction("forms", "forms by forms") as connection:
    key = connection.execute("SELECT * FROM vault_init()").fetchone()
    assert [type(key[name]) for name in ("master_key", "key_version", "requires_recovery_code")] == [str, int, bool]
    assert connection.execute("SELECT (vault_get_master_key()).*").fetchone() == key
    whole = "SELECT vault_get_master_key() AS whole"
    assert connection.execute(whole).fetchone()["whole"] == f"({key['master_key']},2,{key['kek_id']},1,f,,)"
    register_composite(CompositeInfo.fetch(connection, "vault_key"), connection)
    assert connection.execute(whole).fetchone()["whole"]._asdict() == key
try:
    with transaction("nobody", "forms by nobody") as connection:
        connection.execute("SELECT * FROM vault_get_master_key()")
    raise AssertionError("a key without a vault")
except errors.NoDataFound as error:
    assert error.sqlstate == "P0002" and error.diag.message_hint.startswith("Call vault_init()")
