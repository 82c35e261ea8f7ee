# frozen_string_literal: true

# What pg makes of the forms of a call, as docs/how-to/stacks.md says.

require_relative "vault"

def check(truth, what)
  truth or abort "forms: #{what} is not as expected"
end

Vault.transaction("forms", "forms by forms") do |connection|
  key = connection.exec("SELECT * FROM vault_init()").first
  check key.values_at("master_key", "key_version", "requires_recovery_code").map(&:class) == [String, Integer, FalseClass], "FROM"
  check connection.exec("SELECT (vault_get_master_key()).*").first == key, "(f()).*"
  # With the type map, pg warns about the type of the row.
  connection.type_map_for_results = PG::TypeMapAllStrings.new
  check connection.exec("SELECT key_version FROM vault_get_master_key()").getvalue(0, 0) == "1", "a value without a type map"
  whole = "(#{key["master_key"]},2,#{key["kek_id"]},1,f,,)"
  check connection.exec("SELECT vault_get_master_key()").getvalue(0, 0) == whole, "f()"
end
begin
  Vault.transaction("nobody", "forms by nobody") { |connection| connection.exec("SELECT * FROM vault_get_master_key()") }
  check false, "a key without a vault"
rescue PG::NoDataFound => e
  check e.result.error_field(PG::PG_DIAG_SQLSTATE) == "P0002", "SQLSTATE"
  check e.result.error_field(PG::PG_DIAG_MESSAGE_HINT).start_with?("Call vault_init()"), "hint"
end
