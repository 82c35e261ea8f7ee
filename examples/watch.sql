-- For the test alone: what must hold when an application sets the identity. A setting for the session outlives its transaction, and
-- then it is the identity of whoever gets the connection next. The answers of the application need not show it.
CREATE SCHEMA watch;
CREATE SEQUENCE watch.calls;
CREATE FUNCTION watch.set_config(name text, value text, is_local boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- check.sql wants to see that the applications come through here.
    IF NOT current_setting('transaction_read_only')::boolean THEN PERFORM nextval('watch.calls'); END IF;
    -- Drivers set options of their own, such as TimeZone, for the session.
    IF NOT is_local AND name LIKE 'app.%' THEN RAISE EXCEPTION '% is set for the session, and not for the transaction alone', name; END IF;
    RETURN pg_catalog.set_config(name, value, is_local);
END $$;
GRANT USAGE ON SCHEMA watch TO PUBLIC;
GRANT USAGE ON SEQUENCE watch.calls TO PUBLIC;
ALTER DATABASE :"DBNAME" SET search_path = watch, pg_catalog, public;
