//! As much of HTTP/1.1 as a proxy between two well-behaved programs needs.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;

const HEAD_BYTES_MAX: usize = 64 << 10;

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Of those that came since the plan was made, in the order of their coming, from 1 on.
    pub(crate) number: usize,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) head: String,
    pub(crate) body_bytes: usize,
}

impl Request {
    /// The first of the lines, and the number.
    pub(crate) fn name(&self) -> String {
        let (number, method, target) = (self.number, &self.method, &self.target);
        let condition = ["if-match", "if-none-match", "range"]
            .iter()
            .filter_map(|name| Some(format!(" {name}: {}", field(&self.head, name)?)));
        let condition: String = condition.collect();
        format!("{number}: {method} {target}{condition}")
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// Whether it changes something.
    pub(crate) fn is_write(&self) -> bool {
        !["GET", "HEAD"].contains(&self.method.as_str())
    }

    /// Of what the client sends next, without its body. None where it sends no more.
    pub(crate) fn receive(from: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let Some(head) = receive_head(from)? else {
            return Ok(None);
        };
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap_or_default());
        let body_bytes = field(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        assert!(
            field(&head, "transfer-encoding").is_none(),
            "a body of unknown size: {head}"
        );
        Ok(Some(Self {
            number: 0,
            method: method.to_owned(),
            target: target.to_owned(),
            body_bytes,
            head,
        }))
    }
}

/// What the server says to that.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// One of the test's own.
    pub(crate) fn new(status: &str, kind: &str, body: &str) -> Self {
        let bytes = body.len();
        Self {
            head: format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n\r\n"
            ),
            body: body.into(),
        }
    }

    /// An error as S3 tells it.
    pub(crate) fn error(status: &str, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
             <Message>the message of the error</Message><Resource>/</Resource>\
             <RequestId>1</RequestId></Error>"
        );
        Self::new(status, "application/xml", &body)
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Shape: nothing is sent before the answer that counts but `100 Continue`.
    pub(crate) fn receive(from: &mut BufReader<TcpStream>, method: &str) -> io::Result<Self> {
        loop {
            let head = receive_head(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut answer = Self {
                head,
                body: Vec::new(),
            };
            let status = answer.status();
            if status == 100 {
                continue;
            }
            if method == "HEAD" || [204, 304].contains(&status) {
                return Ok(answer);
            }
            if field(&answer.head, "transfer-encoding").is_some() {
                answer.body = receive_chunks(from)?;
                let head = answer.head.to_ascii_lowercase();
                let at = head.find("transfer-encoding").unwrap();
                let end = at + head[at..].find("\r\n").unwrap();
                let size = format!("content-length: {}", answer.body.len());
                answer.head.replace_range(at..end, &size);
                return Ok(answer);
            }
            let bytes = field(&answer.head, "content-length").unwrap_or("0");
            answer.body = vec![0; bytes.parse().unwrap()];
            from.read_exact(&mut answer.body)?;
            return Ok(answer);
        }
    }

    /// With another value in the line `name`, which it has.
    pub(crate) fn with_field(mut self, name: &str, value: &str) -> Self {
        let head = self.head.to_ascii_lowercase();
        let at = head.find(&format!("\r\n{name}:"));
        let at = at.unwrap_or_else(|| panic!("no {name}: {head}")) + 2;
        let end = at + head[at..].find("\r\n").unwrap();
        self.head
            .replace_range(at..end, &format!("{name}: {value}"));
        self
    }
}

/// Up to and with the empty line.
fn receive_head(from: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 || head.len() > HEAD_BYTES_MAX {
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
    Ok(Some(head))
}

fn receive_chunks(from: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let bytes = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + bytes + 2, 0);
        from.read_exact(&mut body[start..])?;
        body.truncate(start + bytes);
        if bytes == 0 {
            return Ok(body);
        }
    }
}

/// The value of a line of a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n").skip(1);
    lines.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
