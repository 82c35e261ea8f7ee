"""Notes that are encrypted with their owner's key before they reach the database. With Django and its connection pool."""

import base64
import json
import os
import secrets

import django
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_http_methods, require_POST

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[f"{__name__}.VaultMiddleware"],  # the last one in your list, so that it sees the exceptions of the views alone
    DATABASES={
        # The usual variables (PGHOST, PGUSER…) say the rest.
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "OPTIONS": {"pool": {"min_size": 2, "max_size": 4}},
        }
    },
)
django.setup()


# --- The glue: who the user is, and what is encrypted ---


class VaultMiddleware:
    """A transaction for each request. The settings end with it, so the next user of the connection starts without any."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT set_config('app.current_user_id', %s, true), set_config('app.request_id', %s, true)",
                    # X-User stands for request.user, or for what your token says.
                    [request.headers.get("X-User", ""), request.headers.get("X-Request-Id", "")],
                )
            return self.get_response(request)

    def process_exception(self, request, exception):
        transaction.set_rollback(True)  # Django makes a response of the exception, so the block above would commit
        match getattr(exception.__cause__, "sqlstate", None):
            case "P0002":
                return JsonResponse({"error": "this user has no vault yet"}, status=404)
            case "28000":
                return JsonResponse({"error": "who are you?"}, status=401)


def vault(call, *arguments):
    """The key and its version, from a call such as vault_init()."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT master_key, key_version FROM {call}", arguments)
        return cursor.fetchone()


def encrypt(master_key, value):
    """enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too."""
    iv = secrets.token_bytes(12)
    ciphertext = AESGCM(base64.b64decode(master_key)).encrypt(iv, json.dumps(value, ensure_ascii=False).encode(), None)
    return f"enc:1:{base64.b64encode(iv).decode()}.{base64.b64encode(ciphertext).decode()}"


def decrypt(master_key, blob):
    iv, ciphertext = (base64.b64decode(part) for part in blob.removeprefix("enc:1:").split("."))
    return json.loads(AESGCM(base64.b64decode(master_key)).decrypt(iv, ciphertext, None))


# --- The application ---


class Note(models.Model):
    id = models.BigAutoField(primary_key=True)
    owner = models.TextField(db_default=models.Func(function="vault_user_id"))
    body = models.TextField()
    key_version = models.IntegerField()

    class Meta:
        app_label = "notes"
        db_table = "notes"
        managed = False


@require_http_methods(["GET", "POST"])
def notes(request):
    if request.method == "GET":
        return JsonResponse([text for _, text in opened(*vault("vault_get_master_key()"))], safe=False)
    master_key, version = vault("vault_init()")
    Note.objects.create(body=encrypt(master_key, request.body.decode()), key_version=version)
    return JsonResponse({}, status=201)


def opened(master_key, version):
    """The notes and their texts. A note that was written during a rotation may still be under an older key."""
    keys = {version: master_key}
    found = list(Note.objects.order_by("id"))
    for older in {note.key_version for note in found} - keys.keys():
        keys[older], _ = vault("vault_get_key_version(%s)", older)
    return [(note, decrypt(keys[note.key_version], note.body)) for note in found]


@require_POST
def rotate(request):
    master_key, version = vault("vault_rotate()")
    for note, text in opened(master_key, version):
        note.body, note.key_version = encrypt(master_key, text), version
        note.save(update_fields=["body", "key_version"])
    return JsonResponse({})


urlpatterns = [path("notes", notes), path("rotate", rotate)]
application = get_wsgi_application()
