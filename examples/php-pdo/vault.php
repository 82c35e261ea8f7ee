<?php
// The glue: who the user is, and what is encrypted. With PDO and persistent connections.
declare(strict_types=1);

/**
 * Runs a function in a transaction for one user, with the connection as its argument. The settings end with the transaction, so the
 * next user of the connection starts without any.
 */
function transaction(?string $user, ?string $requestId, callable $call): mixed
{
    // The usual variables (PGHOST, PGUSER…) say where the database is.
    $pdo = new PDO('pgsql:', options: [
        PDO::ATTR_PERSISTENT => true,
        PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_OBJ,
        // The parameters are sent apart from the statement, and nothing is prepared: so it also works behind a pooler in
        // transaction mode. PDO::ATTR_EMULATE_PREPARES would write the parameters into the statement, and so into logs.
        PDO::PGSQL_ATTR_DISABLE_PREPARES => true,
    ]);
    $pdo->beginTransaction();
    try {
        query($pdo, "SELECT set_config('app.current_user_id', ?, true), set_config('app.request_id', ?, true)", $user ?? '', $requestId ?? '');
        $answer = $call($pdo);
        $pdo->commit();
        return $answer;
    } catch (Throwable $error) {
        $pdo->rollBack();
        throw $error;
    }
}

function query(PDO $pdo, string $sql, mixed ...$parameters): PDOStatement
{
    $statement = $pdo->prepare($sql);
    $statement->execute($parameters);
    return $statement;
}

/**
 * enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too.
 * The attribute keeps a parameter out of the stack traces of exceptions.
 */
function encrypt(#[SensitiveParameter] string $masterKey, #[SensitiveParameter] mixed $value): string
{
    $iv = random_bytes(12);
    $json = json_encode($value, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR);
    $ciphertext = openssl_encrypt($json, 'aes-256-gcm', base64_decode($masterKey), OPENSSL_RAW_DATA, $iv, $tag);
    return 'enc:1:' . base64_encode($iv) . '.' . base64_encode($ciphertext . $tag);
}

function decrypt(#[SensitiveParameter] string $masterKey, string $blob): mixed
{
    [$iv, $ciphertext] = array_map(base64_decode(...), explode('.', substr($blob, strlen('enc:1:'))));
    $json = openssl_decrypt(
        substr($ciphertext, 0, -16), 'aes-256-gcm', base64_decode($masterKey), OPENSSL_RAW_DATA, $iv, substr($ciphertext, -16)
    );
    if ($json === false) {
        throw new RuntimeException('a note does not open with its key');
    }
    return json_decode($json, flags: JSON_THROW_ON_ERROR);
}
