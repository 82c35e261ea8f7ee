"""What Django makes of the forms of a call, as docs/how-to/stacks.md says."""

from contextlib import contextmanager

import notes  # noqa: F401, it configures Django
from django.db import DatabaseError, ProgrammingError, connection, transaction


@contextmanager
def cursor_for(user):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('app.current_user_id', %s, true), set_config('app.request_id', %s, true)", [user, f"forms by {user}"]
        )
        yield cursor


with cursor_for("forms") as cursor:
    cursor.execute("SELECT * FROM vault_init()")
    key = cursor.fetchone()
    assert cursor.description[0].name == "master_key" and [type(value) for value in key[:5]] == [str, int, str, int, bool]
    cursor.execute("SELECT (vault_get_master_key()).*")
    assert cursor.fetchone() == key
    cursor.execute("SELECT vault_get_master_key()")
    assert cursor.fetchone() == (f"({key[0]},2,{key[2]},1,f,,)",)
try:
    with cursor_for("nobody") as cursor:
        cursor.execute("SELECT * FROM vault_get_master_key()")
    raise AssertionError("a key without a vault")
except DatabaseError as error:
    assert type(error) is ProgrammingError  # nothing says more than the SQLSTATE
    assert error.__cause__.sqlstate == "P0002" and error.__cause__.diag.message_hint.startswith("Call vault_init()")
connection.close_pool()
