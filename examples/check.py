#!/usr/bin/python3
"""Uses an example application as browsers would, over HTTP on 127.0.0.1:$PORT, and checks its answers.

The examples are the same application. X-User says who the user is; in your application a session or a token does.

    GET /notes     200, the user's notes as a JSON array; 404 if the user has no vault yet; 401 if there is no user
    POST /notes    201; the body of the request is the note, UTF-8; creates the vault on first use
    POST /rotate   200; makes a new key and re-encrypts the notes
"""

import http.client
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

PORT = int(os.environ["PORT"])


def request(method, path, user=None, body=None):
    """The status and the body of the answer."""
    headers = {"X-Request-Id": f"{method} {path} by {user}", "Content-Type": "text/plain; charset=utf-8"}
    if user is not None:
        headers["X-User"] = user
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request(method, path, None if body is None else body.encode(), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def expect(status, *arguments):
    got, text = request(*arguments)
    assert got == status, f"{arguments}: {got} instead of {status}: {text}"
    return text


def wait_for_the_application():
    deadline = time.monotonic() + 120
    while True:
        try:
            http.client.HTTPConnection("127.0.0.1", PORT, timeout=5).connect()
            return
        except OSError:
            assert time.monotonic() < deadline, "the application does not listen"
            time.sleep(0.1)


def notes_of(user):
    return json.loads(expect(200, "GET", "/notes", user))


wait_for_the_application()
expect(401, "GET", "/notes")
expect(404, "GET", "/notes", "bob")
expect(201, "POST", "/notes", "alice", "Buy milk")
expect(201, "POST", "/notes", "alice", "Käse, 🧀 and \"bread\"\n\\")
expect(201, "POST", "/notes", "bob", "Feed the cat")
assert notes_of("alice") == ["Buy milk", "Käse, 🧀 and \"bread\"\n\\"], notes_of("alice")
assert notes_of("bob") == ["Feed the cat"], notes_of("bob")
expect(200, "POST", "/rotate", "alice")
assert notes_of("alice") == ["Buy milk", "Käse, 🧀 and \"bread\"\n\\"], notes_of("alice")
expect(201, "POST", "/notes", "alice", "Water the plants")
# Users who come at the same time share the pool's connections, and each still gets their own notes. All of these are the first call of
# their user.
users = [f"user-{number}" for number in range(20)]
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda user: expect(201, "POST", "/notes", user, f"I am {user}"), users * 2))
    for user, notes in zip(users, pool.map(notes_of, users)):
        assert notes == [f"I am {user}"] * 2, f"{user}: {notes}"
# A connection that goes back to the pool forgets its user.
for _ in range(10):
    expect(401, "GET", "/notes")
