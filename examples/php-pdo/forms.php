<?php
// What PDO makes of the forms of a call, as docs/how-to/stacks.md says.
declare(strict_types=1);

require 'vault.php';

transaction('forms', 'forms by forms', function (PDO $pdo) {
    $key = query($pdo, 'SELECT * FROM vault_init()')->fetch();
    assert(is_string($key->master_key) && is_int($key->key_version) && is_bool($key->requires_recovery_code));
    assert(query($pdo, 'SELECT (vault_get_master_key()).*')->fetch() == $key);
    assert(query($pdo, 'SELECT vault_get_master_key()')->fetchColumn() === "($key->master_key,2,$key->kek_id,1,f,,)");
    // What the server sees of a parameter: nothing in the statement, unless prepares are emulated.
    $seen = 'SELECT current_query() WHERE ?::text IS NOT NULL';
    assert(!str_contains(query($pdo, $seen, 'Buy milk')->fetchColumn(), 'Buy milk'));
    $pdo->setAttribute(PDO::PGSQL_ATTR_DISABLE_PREPARES, false);
    $pdo->setAttribute(PDO::ATTR_EMULATE_PREPARES, true);
    assert(str_contains(query($pdo, $seen, 'Buy milk')->fetchColumn(), 'Buy milk'));
});
try {
    transaction('nobody', 'forms by nobody', fn (PDO $pdo) => query($pdo, 'SELECT * FROM vault_get_master_key()'));
    assert(false);
} catch (PDOException $error) {
    assert($error->getCode() === 'P0002' && $error->errorInfo[0] === 'P0002');
    assert(str_contains($error->errorInfo[2], "\nHINT:  Call vault_init()")); // the hint is a line of the message
}
