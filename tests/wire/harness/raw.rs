//! The extended protocol by hand, for pipelines: the crate's blocking client waits for each answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Cluster;

#[derive(Debug, PartialEq)]
pub enum Answer {
    Row(Vec<Option<String>>),
    Error(String),
    /// 'I' idle, 'T' in a transaction, 'E' in a failed one.
    Ready(char),
}

pub struct RawClient {
    stream: UnixStream,
    batch: Vec<u8>,
}

fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    let mut bytes: Vec<u8> = kind.into_iter().collect();
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn number(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

impl RawClient {
    pub fn connect(cluster: &Cluster, role: &str, db: &str) -> Self {
        Self::connect_with(cluster, role, db, b"")
    }

    /// Connects with `options` for the server, which may be bytes in any encoding.
    pub fn connect_with(cluster: &Cluster, role: &str, db: &str, options: &[u8]) -> Self {
        let path = cluster.dir().join(format!(".s.PGSQL.{}", cluster.port()));
        let mut stream = UnixStream::connect(path).expect("the server's socket accepts");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a read timeout can be set");
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        for text in [b"user", role.as_bytes(), b"database", db.as_bytes(), b"options", options] {
            body.extend(text);
            body.push(0);
        }
        body.push(0);
        stream.write_all(&message(None, &body)).expect("the startup message is sent");
        let mut client = RawClient { stream, batch: Vec::new() };
        assert_eq!(client.answers(), [Answer::Ready('I')]);
        client
    }

    /// Queues Parse, Bind and Execute for one statement, and sends nothing yet.
    pub fn queue(&mut self, sql: &str) {
        let parse = [b"\0", sql.as_bytes(), b"\0", &[0, 0]].concat();
        self.batch.extend(message(Some(b'P'), &parse));
        self.batch.extend(message(Some(b'B'), &[0; 8]));
        self.batch.extend(message(Some(b'E'), &[0; 5]));
    }

    pub fn sync(&mut self) {
        self.batch.extend(message(Some(b'S'), &[]));
    }

    /// Sends everything in the queue at once.
    pub fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.stream.write_all(&batch).expect("the pipeline is sent");
    }

    /// The server's answers up to its next ReadyForQuery.
    pub fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).expect("a message arrives");
            let length = usize::try_from(number(&head[1..])).expect("a length") - 4;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).expect("the whole message arrives");
            match head[0] {
                b'D' => answers.push(Answer::Row(row(&body))),
                b'E' => answers.push(Answer::Error(sqlstate(&body))),
                b'Z' => {
                    answers.push(Answer::Ready(char::from(body[0])));
                    return answers;
                }
                _ => {}
            }
        }
    }
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = &body[2..];
    let mut values = Vec::new();
    while !rest.is_empty() {
        let length = number(rest);
        rest = &rest[4..];
        values.push(usize::try_from(length).ok().map(|length| {
            let (value, after) = rest.split_at(length);
            rest = after;
            String::from_utf8(value.to_vec()).expect("text in UTF-8")
        }));
    }
    values
}

fn sqlstate(body: &[u8]) -> String {
    body.split(|byte| *byte == 0)
        .find(|field| field.first() == Some(&b'C'))
        .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
        .expect("an error has a code")
}
