//! Stands between client and server: counts the requests, delays and slows them down, and cuts connections
//! off where the plan of the test says so.
//!
//! The server looks at the condition of a PUT before it takes the body, and shows a new object a moment
//! before its new ETag; an object store does both in one step. So each object has one request at a time
//! here, which the server gets when all of it has come.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use crate::http::{Answer, Request};

/// How much is sent before the next look at the pace.
const STEP_BYTES: usize = 4 << 10;

/// What becomes of a request.
#[derive(Clone)]
pub(crate) enum Act {
    Pass,
    /// The connection ends; the server hears nothing of it.
    Refuse,
    /// The connection ends when the server has so many bytes of the body.
    CutBody(usize),
    /// The server does it, and the connection ends without an answer.
    Swallow,
    /// The connection ends after so many bytes of the body of the answer.
    CutAnswer(usize),
    /// The server hears nothing of it, and this is the answer.
    Answer(Answer),
    /// What the server answers, changed.
    Alter(fn(Answer) -> Answer),
    /// The server does it; that is told, and the answer waits until it may go on.
    Hold(mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>),
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "Pass",
            Self::Refuse => "Refuse",
            Self::CutBody(bytes) => return write!(f, "CutBody({bytes})"),
            Self::Swallow => "Swallow",
            Self::CutAnswer(bytes) => return write!(f, "CutAnswer({bytes})"),
            Self::Answer(_) => "Answer",
            Self::Alter(_) => "Alter",
            Self::Hold(..) => "Hold",
        })
    }
}

type Plan = Arc<dyn Fn(&Request) -> Act + Send + Sync>;

/// How slow the line is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Before each request.
    pub(crate) delay: Duration,
    /// Each way, of each connection.
    pub(crate) bytes_per_second: Option<u32>,
}

impl Pace {
    fn send(self, to: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        let Some(rate) = self.bytes_per_second else {
            return to.write_all(bytes);
        };
        for step in bytes.chunks(STEP_BYTES) {
            to.write_all(step)?;
            wait(Duration::from_secs_f64(step.len() as f64 / f64::from(rate)));
        }
        Ok(())
    }

    fn receive(self, from: &mut BufReader<TcpStream>, bytes: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; bytes];
        for step in body.chunks_mut(STEP_BYTES) {
            from.read_exact(step)?;
            if let Some(rate) = self.bytes_per_second {
                wait(Duration::from_secs_f64(step.len() as f64 / f64::from(rate)));
            }
        }
        Ok(body)
    }
}

fn wait(time: Duration) {
    if !time.is_zero() {
        std::thread::sleep(time);
    }
}

struct Shared {
    server: SocketAddr,
    order: Mutex<Order>,
    /// One for each path that was asked for.
    objects: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    is_closed: AtomicBool,
}

struct Order {
    plan: Plan,
    pace: Pace,
    seen: Vec<Request>,
}

/// See the head of the file. Closed when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// That passes everything on.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            order: Mutex::new(Order {
                plan: Arc::new(|_| Act::Pass),
                pace: Pace::default(),
                seen: Vec::new(),
            }),
            objects: Mutex::default(),
            is_closed: AtomicBool::new(false),
        });
        let inner = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if inner.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                let (inner, stream) = (inner.clone(), stream.unwrap());
                // However a connection ends, its client knows what to make of it.
                std::thread::spawn(move || inner.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// What becomes of the requests from here on, which are counted from 1 on.
    pub(crate) fn plan(&self, plan: impl Fn(&Request) -> Act + Send + Sync + 'static) {
        self.begin(Arc::new(plan), Pace::default());
    }

    /// Everything is passed on, and counted from 1 on.
    pub(crate) fn pass(&self) {
        self.plan(|_| Act::Pass);
    }

    /// Everything is passed on at that pace.
    pub(crate) fn slow_down(&self, pace: Pace) {
        self.begin(Arc::new(|_| Act::Pass), pace);
    }

    fn begin(&self, plan: Plan, pace: Pace) {
        let seen = Vec::new();
        *self.shared.order.lock().unwrap() = Order { plan, pace, seen };
    }

    /// Those that came since the plan was made.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.order.lock().unwrap().seen.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// One connection of a client, until it ends or is cut off.
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut client = BufReader::new(stream);
        while let Some(mut request) = Request::receive(&mut client)? {
            let (act, pace) = self.decide(&mut request);
            wait(pace.delay);
            if !self.follow(&request, &act, pace, &mut client)? {
                break;
            }
        }
        client.get_ref().shutdown(Shutdown::Both)
    }

    fn decide(&self, request: &mut Request) -> (Act, Pace) {
        let mut order = self.order.lock().unwrap();
        request.number = order.seen.len() + 1;
        order.seen.push(request.clone());
        let (plan, pace) = (order.plan.clone(), order.pace);
        drop(order);
        (plan(request), pace)
    }

    /// Whether the connection goes on.
    fn follow(
        &self,
        request: &Request,
        act: &Act,
        pace: Pace,
        client: &mut BufReader<TcpStream>,
    ) -> io::Result<bool> {
        let body_bytes = match act {
            Act::Refuse => return Ok(false),
            // Never all of it.
            Act::CutBody(bytes) => (*bytes).min(request.body_bytes.saturating_sub(1)),
            _ => request.body_bytes,
        };
        if request.head.to_ascii_lowercase().contains("expect: 100") {
            client
                .get_mut()
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = pace.receive(client, body_bytes)?;
        let mut answer = match act {
            Act::Answer(answer) => answer.clone(),
            Act::CutBody(_) if request.body_bytes != 0 => {
                self.ask(request, &body, false)?;
                return Ok(false);
            }
            // Of a request without a body it does not get the head.
            Act::CutBody(_) => return Ok(false),
            _ => self.ask(request, &body, true)?,
        };
        let mut goes_on = true;
        match act {
            Act::Swallow => return Ok(false),
            Act::CutAnswer(bytes) => {
                let most = answer.body.len().saturating_sub(1);
                answer.body.truncate((*bytes).min(most));
                goes_on = false;
            }
            Act::Alter(change) => {
                answer = change(answer);
                // Its size may be a lie, which the next answer must not make true.
                goes_on = false;
            }
            Act::Hold(reached, go_on) => {
                let _ = reached.send(());
                let _ = go_on.lock().unwrap().recv();
            }
            _ => {}
        }
        let stream = client.get_mut();
        stream.write_all(answer.head.as_bytes())?;
        pace.send(stream, &answer.body)?;
        Ok(goes_on)
    }

    /// What the server answers; nothing where the request `is_whole` not.
    fn ask(&self, request: &Request, body: &[u8], is_whole: bool) -> io::Result<Answer> {
        let mut objects = self.objects.lock().unwrap();
        let object = objects
            .entry(request.path().to_owned())
            .or_default()
            .clone();
        drop(objects);
        let _turn = object.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        stream.write_all(request.head.as_bytes())?;
        stream.write_all(body)?;
        if is_whole {
            return Answer::receive(&mut BufReader::new(stream), &request.method);
        }
        stream.shutdown(Shutdown::Write)?;
        // Until the server has let go of it; what it says to that goes nowhere.
        let _ = stream.read_to_end(&mut Vec::new());
        Ok(Answer::new("400 Bad Request", "text/plain", ""))
    }
}
