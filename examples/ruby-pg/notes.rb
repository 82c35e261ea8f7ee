# frozen_string_literal: true

# Notes that are encrypted with their owner's key before they reach the database.

require "webrick"
require_relative "vault"

def add_note(connection, text)
  key = connection.exec("SELECT master_key, key_version FROM vault_init()").first
  connection.exec_params("INSERT INTO notes (body, key_version) VALUES ($1, $2)",
                         [Vault.encrypt(key["master_key"], text), key["key_version"]])
  nil
end

def notes(connection)
  opened(connection, connection.exec("SELECT master_key, key_version FROM vault_get_master_key()").first).values
end

# The texts by the ids. A note that was written during a rotation may still be under an older key.
def opened(connection, key)
  keys = Hash.new do |known, version|
    known[version] = connection.exec_params("SELECT master_key FROM vault_get_key_version($1)", [version]).getvalue(0, 0)
  end
  keys[key["key_version"]] = key["master_key"]
  connection.exec("SELECT id, body, key_version FROM notes ORDER BY id").to_h do |note|
    [note["id"], Vault.decrypt(keys[note["key_version"]], note["body"])]
  end
end

def rotate(connection)
  key = connection.exec("SELECT master_key, key_version FROM vault_rotate()").first
  opened(connection, key).each do |id, text|
    connection.exec_params("UPDATE notes SET body = $1, key_version = $2 WHERE id = $3",
                           [Vault.encrypt(key["master_key"], text), key["key_version"], id])
  end
  nil
end

def answer(request)
  status, call =
    case "#{request.request_method} #{request.path}"
    when "GET /notes" then [200, method(:notes)]
    when "POST /notes" then [201, ->(connection) { add_note(connection, request.body.force_encoding(Encoding::UTF_8)) }]
    when "POST /rotate" then [200, method(:rotate)]
    else raise WEBrick::HTTPStatus::NotFound
    end
  # X-User stands for what your session or your token says.
  [status, Vault.transaction(request["X-User"], request["X-Request-Id"], &call)]
rescue PG::NoDataFound # P0002
  [404, { error: "this user has no vault yet" }]
rescue PG::InvalidAuthorizationSpecification # 28000
  [401, { error: "who are you?" }]
end

server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: ENV.fetch("PORT"), AccessLog: [])
server.mount_proc "/" do |request, response|
  response.status, body = answer(request)
  response.content_type = "application/json"
  response.body = JSON.generate(body)
end
trap("TERM") { server.shutdown }
server.start
