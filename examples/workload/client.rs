//! A connection that speaks RESP2: commands are gathered, sent together, and answered in order.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Longest bulk string that is believed.
const BULK_BYTES_MAX: usize = 512 << 20;

/// One answer. Errors of the server are errors of the call, also those inside an array.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Nothing, where a value could be.
    Nil,
    /// A status, such as `OK` or `QUEUED`.
    Status,
    /// A number.
    Number,
    /// A value.
    Bulk(Vec<u8>),
    /// Several.
    Array,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    gathered: Vec<u8>,
    command_count: usize,
}

impl Client {
    /// Connects to `HOST:PORT`.
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(256 << 10, stream),
            gathered: Vec::new(),
            command_count: 0,
        })
    }

    /// Gathers one command.
    pub(crate) fn add(&mut self, words: &[&[u8]]) -> &mut Self {
        self.gathered
            .extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.gathered
                .extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.gathered.extend_from_slice(word);
            self.gathered.extend_from_slice(b"\r\n");
        }
        self.command_count += 1;
        self
    }

    /// Sends what was gathered and waits for every answer.
    pub(crate) fn send(&mut self) -> io::Result<Vec<Reply>> {
        self.stream.get_mut().write_all(&self.gathered)?;
        self.gathered.clear();
        let count = std::mem::take(&mut self.command_count);
        (0..count).map(|_| self.reply()).collect()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let Some((kind, rest)) = line.strip_suffix(b"\r\n").and_then(|it| it.split_first()) else {
            return Err(io::Error::other("the server closed the connection"));
        };
        let text = String::from_utf8_lossy(rest);
        let length = || text.parse::<i64>().map_err(|_| unknown(&text));
        match kind {
            b'+' => Ok(Reply::Status),
            b'-' => Err(io::Error::other(format!("the server says: {text}"))),
            b':' => Ok(Reply::Number),
            b'$' => match usize::try_from(length()?) {
                Ok(length) => self.bulk(length),
                Err(_) => Ok(Reply::Nil),
            },
            b'*' => {
                // Every element is read, whatever one of them says.
                let elements: Vec<_> = (0..length()?).map(|_| self.reply()).collect();
                elements.into_iter().collect::<io::Result<Vec<_>>>()?;
                Ok(Reply::Array)
            }
            _ => Err(unknown(&text)),
        }
    }

    fn bulk(&mut self, length: usize) -> io::Result<Reply> {
        if length > BULK_BYTES_MAX {
            return Err(unknown("a length"));
        }
        let mut value = vec![0; length + 2];
        self.stream.read_exact(&mut value)?;
        value.truncate(length);
        Ok(Reply::Bulk(value))
    }
}

fn unknown(text: &str) -> io::Error {
    io::Error::other(format!("an answer that nobody understands: {text}"))
}
