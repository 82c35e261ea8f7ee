"""What SQLAlchemy with psycopg makes of the forms of a call, as docs/how-to/stacks.md says."""

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from notes import engine

with Session(engine, info={"user": "forms", "request_id": "forms by forms"}) as session, session.begin():
    key = session.execute(text("SELECT * FROM vault_init()")).one()
    assert [type(value) for value in (key.master_key, key.key_version, key.requires_recovery_code)] == [str, int, bool]
    assert session.execute(text("SELECT (vault_get_master_key()).*")).one() == key
    assert session.scalar(select(func.vault_get_master_key())) == f"({key.master_key},2,{key.kek_id},1,f,,)"
try:
    with Session(engine, info={"user": "nobody", "request_id": "forms by nobody"}) as session, session.begin():
        session.execute(text("SELECT * FROM vault_get_master_key() WHERE :hidden <> ''"), {"hidden": "Buy milk"})
    raise AssertionError("a key without a vault")
except DBAPIError as error:
    assert type(error) is ProgrammingError  # nothing says more than the SQLSTATE
    assert error.orig.sqlstate == "P0002" and error.orig.diag.message_hint.startswith("Call vault_init()")
    assert "Buy milk" not in str(error)
