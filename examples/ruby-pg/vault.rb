# frozen_string_literal: true

# The glue: who the user is, and what is encrypted. With pg and a connection pool.

require "connection_pool"
require "json"
require "openssl"
require "pg"

module Vault
  # The usual variables (PGHOST, PGUSER…) say where the database is.
  POOL = ConnectionPool.new(size: 4) do
    PG.connect.tap { |connection| connection.type_map_for_results = PG::BasicTypeMapForResults.new(connection) }
  end

  module_function

  # A transaction for one user. The settings end with it, so the next user of the connection starts without any.
  def transaction(user, request_id)
    POOL.with do |pooled|
      pooled.transaction do |connection|
        connection.exec_params(
          "SELECT set_config('app.current_user_id', $1, true), set_config('app.request_id', $2, true)", [user.to_s, request_id.to_s]
        )
        yield connection
      end
    end
  end

  # enc:1:<iv>.<ciphertext and tag>, AES-256-GCM over JSON: vault_open_client_blob() reads it, too.
  def encrypt(master_key, value)
    cipher = OpenSSL::Cipher.new("aes-256-gcm").encrypt
    cipher.key = master_key.unpack1("m0")
    iv = cipher.random_iv
    ciphertext = cipher.update(JSON.generate(value)) + cipher.final + cipher.auth_tag
    "enc:1:#{[iv].pack("m0")}.#{[ciphertext].pack("m0")}"
  end

  def decrypt(master_key, blob)
    iv, ciphertext = blob.delete_prefix("enc:1:").split(".").map { |part| part.unpack1("m0") }
    cipher = OpenSSL::Cipher.new("aes-256-gcm").decrypt
    cipher.key = master_key.unpack1("m0")
    cipher.iv = iv
    cipher.auth_tag = ciphertext.slice!(-16..)
    JSON.parse((cipher.update(ciphertext) + cipher.final).force_encoding(Encoding::UTF_8))
  end
end
