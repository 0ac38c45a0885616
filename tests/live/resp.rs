//! As much of a Redis client as the tests need.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::process::PATIENCE;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Bytes(Option<Vec<u8>>),
    List(Vec<Value>),
}

impl Value {
    /// The bytes of a string that is there.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(Some(bytes)) => bytes,
            other => panic!("no bytes: {other:?}"),
        }
    }

    pub fn list(self) -> Vec<Self> {
        match self {
            Self::List(list) => list,
            other => panic!("no list: {other:?}"),
        }
    }
}

/// One connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            reader: BufReader::new(stream),
        })
    }

    /// Sends several commands at once and gives their replies. An error reply is an error.
    pub fn pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> io::Result<Vec<Value>> {
        let mut text = Vec::new();
        for words in commands {
            write!(text, "*{}\r\n", words.len())?;
            for word in words {
                write!(text, "${}\r\n", word.len())?;
                text.extend_from_slice(word);
                text.extend_from_slice(b"\r\n");
            }
        }
        self.reader.get_mut().write_all(&text)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    pub fn command(&mut self, words: &[&str]) -> io::Result<Value> {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut replies = self.pipeline(&[words])?;
        Ok(replies.remove(0))
    }

    fn reply(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches("\r\n");
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        match kind {
            "+" => Ok(Value::Text(rest.to_owned())),
            "-" => Err(io::Error::other(format!("the server says: {rest}"))),
            ":" => Ok(Value::Integer(number()?)),
            "$" => {
                let Ok(length) = usize::try_from(number()?) else {
                    return Ok(Value::Bytes(None));
                };
                let mut bytes = vec![0; length + 2];
                self.reader.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(Value::Bytes(Some(bytes)))
            }
            "*" => {
                let items = (0..number()?).map(|_| self.reply());
                Ok(Value::List(items.collect::<io::Result<_>>()?))
            }
            other => Err(io::Error::other(format!("unknown reply {other}"))),
        }
    }
}

/// The words of a command, some of which may be bytes.
pub fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}
