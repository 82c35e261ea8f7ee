import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import javax.crypto.Cipher;
import javax.crypto.SecretKey;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;
import javax.sql.DataSource;

/** Notes that are encrypted with their owner's key before they reach the database. With JDBC and HikariCP. */
public class Notes {
    static final ObjectMapper JSON = new ObjectMapper();
    static final SecureRandom RANDOM = new SecureRandom();

    // --- The glue: who the user is, and what is encrypted ---

    interface Work<T> {
        T run(Connection connection) throws SQLException, GeneralSecurityException, IOException;
    }

    /** A transaction for one user. The settings end with it, so the next user of the connection starts without any. */
    static <T> T transaction(DataSource pool, String user, String requestId, Work<T> work)
            throws SQLException, GeneralSecurityException, IOException {
        try (var connection = pool.getConnection()) { // autoCommit is off, and the pool rolls back what was not committed
            try (var settings = connection.prepareStatement(
                    "SELECT set_config('app.current_user_id', ?, true), set_config('app.request_id', ?, true)")) {
                settings.setString(1, user == null ? "" : user);
                settings.setString(2, requestId == null ? "" : requestId);
                settings.execute();
            }
            var result = work.run(connection);
            connection.commit();
            return result;
        }
    }

    record Key(int version, SecretKey secret) {
        /** The current row, with the columns master_key and key_version. */
        static Key of(ResultSet row) throws SQLException {
            var bytes = Base64.getDecoder().decode(row.getString("master_key"));
            return new Key(row.getInt("key_version"), new SecretKeySpec(bytes, "AES"));
        }

        /** enc:1:[iv].[ciphertext and tag], AES-256-GCM over JSON: vault_open_client_blob() reads it, too. */
        String encrypt(Object value) throws GeneralSecurityException, IOException {
            var iv = new byte[12];
            RANDOM.nextBytes(iv);
            var ciphertext = cipher(Cipher.ENCRYPT_MODE, iv).doFinal(JSON.writeValueAsBytes(value));
            var base64 = Base64.getEncoder();
            return "enc:1:" + base64.encodeToString(iv) + "." + base64.encodeToString(ciphertext);
        }

        <T> T decrypt(String blob, Class<T> type) throws GeneralSecurityException, IOException {
            var parts = blob.substring("enc:1:".length()).split("\\.");
            var base64 = Base64.getDecoder();
            return JSON.readValue(cipher(Cipher.DECRYPT_MODE, base64.decode(parts[0])).doFinal(base64.decode(parts[1])), type);
        }

        private Cipher cipher(int mode, byte[] iv) throws GeneralSecurityException {
            var cipher = Cipher.getInstance("AES/GCM/NoPadding");
            cipher.init(mode, secret, new GCMParameterSpec(128, iv));
            return cipher;
        }
    }

    // --- The application ---

    record Note(long id, String text) {}

    static Void addNote(Connection connection, String text) throws SQLException, GeneralSecurityException, IOException {
        var key = key(connection, "SELECT master_key, key_version FROM vault_init()");
        try (var insert = connection.prepareStatement("INSERT INTO notes (body, key_version) VALUES (?, ?)")) {
            insert.setString(1, key.encrypt(text));
            insert.setInt(2, key.version);
            insert.executeUpdate();
        }
        return null;
    }

    static List<String> notes(Connection connection) throws SQLException, GeneralSecurityException, IOException {
        var key = key(connection, "SELECT master_key, key_version FROM vault_get_master_key()");
        return opened(connection, key).stream().map(Note::text).toList();
    }

    static Void rotate(Connection connection) throws SQLException, GeneralSecurityException, IOException {
        var key = key(connection, "SELECT master_key, key_version FROM vault_rotate()");
        try (var update = connection.prepareStatement("UPDATE notes SET body = ?, key_version = ? WHERE id = ?")) {
            for (var note : opened(connection, key)) {
                update.setString(1, key.encrypt(note.text));
                update.setInt(2, key.version);
                update.setLong(3, note.id);
                update.addBatch();
            }
            update.executeBatch();
        }
        return null;
    }

    /** A note that was written during a rotation may still be under an older key. */
    static List<Note> opened(Connection connection, Key current) throws SQLException, GeneralSecurityException, IOException {
        var keys = new HashMap<>(Map.of(current.version, current));
        var notes = new ArrayList<Note>();
        try (var select = connection.prepareStatement("SELECT id, body, key_version FROM notes ORDER BY id");
                var rows = select.executeQuery()) {
            while (rows.next()) {
                var version = rows.getInt("key_version");
                if (!keys.containsKey(version)) {
                    keys.put(version, key(connection, "SELECT master_key, key_version FROM vault_get_key_version(?)", version));
                }
                notes.add(new Note(rows.getLong("id"), keys.get(version).decrypt(rows.getString("body"), String.class)));
            }
        }
        return notes;
    }

    static Key key(Connection connection, String sql, Object... parameters) throws SQLException {
        try (var select = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) select.setObject(i + 1, parameters[i]);
            try (var row = select.executeQuery()) {
                row.next();
                return Key.of(row);
            }
        }
    }

    static void answer(HttpExchange exchange, DataSource pool, int status, Work<?> work) throws IOException {
        Object answer;
        try {
            // X-User stands for what your session or your token says.
            var headers = exchange.getRequestHeaders();
            answer = transaction(pool, headers.getFirst("X-User"), headers.getFirst("X-Request-Id"), work);
        } catch (SQLException | GeneralSecurityException e) {
            switch (e instanceof SQLException sql ? sql.getSQLState() : "") {
                case "P0002" -> { status = 404; answer = Map.of("error", "this user has no vault yet"); }
                case "28000" -> { status = 401; answer = Map.of("error", "who are you?"); }
                default -> { e.printStackTrace(); status = 500; answer = Map.of("error", "something went wrong"); }
            }
        }
        var body = JSON.writeValueAsBytes(answer);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, body.length);
        try (var out = exchange.getResponseBody()) {
            out.write(body);
        }
    }

    public static void main(String[] arguments) throws IOException {
        var env = System.getenv();
        var config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE"));
        config.addDataSourceProperty("prepareThreshold", "0"); // no named statements: a pooler in transaction mode needs that
        config.setUsername(env.get("PGUSER"));
        config.setPassword(env.get("PGPASSWORD"));
        config.setMaximumPoolSize(4);
        config.setAutoCommit(false);
        var pool = new HikariDataSource(config);

        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(env.get("PORT"))), 0);
        server.createContext("/notes", exchange -> {
            if (exchange.getRequestMethod().equals("POST")) {
                var text = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
                answer(exchange, pool, 201, connection -> addNote(connection, text));
            } else {
                answer(exchange, pool, 200, Notes::notes);
            }
        });
        server.createContext("/rotate", exchange -> answer(exchange, pool, 200, Notes::rotate));
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
    }
}
