-- The table of the example applications. A superuser runs this once, in a database with vault_ext.
-- The application encrypts body before it gets here. The policy shows each user their own notes alone.
CREATE TABLE notes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner       text NOT NULL DEFAULT vault_user_id(),
    body        text NOT NULL,    -- enc:1:…, encrypted with the owner's key
    key_version integer NOT NULL  -- of the key that body is encrypted with
);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_notes ON notes USING (owner = (SELECT vault_user_id()));
GRANT SELECT, INSERT, UPDATE ON notes TO my_app;
