<?php
// Notes that are encrypted with their owner's key before they reach the database.
declare(strict_types=1);

require 'vault.php';

function add_note(PDO $pdo, string $text): void
{
    $key = query($pdo, 'SELECT master_key, key_version FROM vault_init()')->fetch();
    query($pdo, 'INSERT INTO notes (body, key_version) VALUES (?, ?)', encrypt($key->master_key, $text), $key->key_version);
}

function notes(PDO $pdo): array
{
    $key = query($pdo, 'SELECT master_key, key_version FROM vault_get_master_key()')->fetch();
    return array_values(opened($pdo, $key));
}

/** The texts by the ids. A note that was written during a rotation may still be under an older key. */
function opened(PDO $pdo, object $key): array
{
    $keys = [$key->key_version => $key->master_key];
    $texts = [];
    foreach (query($pdo, 'SELECT id, body, key_version FROM notes ORDER BY id')->fetchAll() as $note) {
        $keys[$note->key_version] ??= query($pdo, 'SELECT master_key FROM vault_get_key_version(?)', $note->key_version)->fetchColumn();
        $texts[$note->id] = decrypt($keys[$note->key_version], $note->body);
    }
    return $texts;
}

function rotate(PDO $pdo): void
{
    $key = query($pdo, 'SELECT master_key, key_version FROM vault_rotate()')->fetch();
    foreach (opened($pdo, $key) as $id => $text) {
        query($pdo, 'UPDATE notes SET body = ?, key_version = ? WHERE id = ?', encrypt($key->master_key, $text), $key->key_version, $id);
    }
}

[$status, $call] = match ("$_SERVER[REQUEST_METHOD] $_SERVER[REQUEST_URI]") {
    'GET /notes' => [200, notes(...)],
    'POST /notes' => [201, fn (PDO $pdo) => add_note($pdo, file_get_contents('php://input'))],
    'POST /rotate' => [200, rotate(...)],
};
try {
    // X-User stands for what your session or your token says.
    $answer = transaction($_SERVER['HTTP_X_USER'] ?? null, $_SERVER['HTTP_X_REQUEST_ID'] ?? null, $call);
} catch (PDOException $error) {
    [$status, $answer] = match ($error->getCode()) {
        'P0002' => [404, ['error' => 'this user has no vault yet']],
        '28000' => [401, ['error' => 'who are you?']],
        default => throw $error,
    };
}
http_response_code($status);
header('Content-Type: application/json');
echo json_encode($answer, JSON_THROW_ON_ERROR);
