-- The official image runs this in the database $POSTGRES_DB when it makes a new data directory.
CREATE EXTENSION vault_ext;
