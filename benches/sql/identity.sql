\if :first
\set user 100000000000000000 + random(1, :users)
SELECT set_config('app.current_user_id', :user, false);
\set first 0
\endif
