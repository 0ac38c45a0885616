//! The addresses of a server before there is a database to serve.

use std::path::Path;

use super::listener::{Listener, folder_of};
use super::{Seat, Server, ServerError, ServerOptions};
use crate::database::Database;
use crate::os;

/// Bound and not served yet: who connects waits.
#[derive(Debug)]
pub struct Bound {
    options: ServerOptions,
    tcp: Option<Listener>,
    unix: Option<Listener>,
}

impl Bound {
    /// Binds before the database in `dir` is opened, or made, so that an address that cannot be had
    /// leaves no trace there. A socket in `dir` itself waits for `serve`: only then there is that folder.
    ///
    /// Errors: `PasswordNeeded`; `Bind` and `BindPath`.
    pub fn outside(dir: &Path, options: ServerOptions) -> Result<Self, ServerError> {
        let mut bound = Self::nowhere(options);
        bound.bind(|path| !is_directly_in(path, dir))?;
        Ok(bound)
    }

    /// Nothing is bound before `serve`.
    pub(super) fn nowhere(options: ServerOptions) -> Self {
        Self {
            options,
            tcp: None,
            unix: None,
        }
    }

    /// Binds what is not bound yet; of paths those that `may_bind`.
    fn bind(&mut self, may_bind: impl FnOnce(&Path) -> bool) -> Result<(), ServerError> {
        if let (Some(address), None) = (self.options.listen, &self.tcp) {
            self.options.refuse_open(address)?;
            let listener = Listener::tcp(address)?;
            self.options.listen = listener.address().or(self.options.listen);
            self.tcp = Some(listener);
        }
        if let (Some(path), None) = (&self.options.unix, &self.unix)
            && may_bind(path)
        {
            self.unix = Some(Listener::unix(path)?);
        }
        Ok(())
    }

    /// Serves clients on threads of its own until `stop`.
    ///
    /// Errors: `NoListener`; `PasswordNeeded`; `Bind` and `BindPath`; `Thread`.
    pub fn serve(self, database: Database) -> Result<Server, ServerError> {
        self.serve_seat(Seat::of(database))
    }

    /// The same for whatever database is in `seat`.
    ///
    /// Errors: as for [`Self::serve`].
    pub fn serve_seat(mut self, seat: Seat) -> Result<Server, ServerError> {
        self.bind(|_| true)?;
        let listeners: Vec<_> = self.tcp.into_iter().chain(self.unix).collect();
        if listeners.is_empty() {
            return Err(ServerError::NoListener);
        }
        Server::accept(seat, self.options, listeners)
    }
}

/// Whether `path` names something in the folder `dir`, there or not.
fn is_directly_in(path: &Path, dir: &Path) -> bool {
    // A link, or a folder that is missing yet: its own folder is there, or nothing can be made in it.
    let real = |path: &Path| {
        let above = || {
            let folder = os::path::canonical(folder_of(path)).ok()?;
            Some(folder.join(path.file_name()?))
        };
        os::path::canonical(path).ok().or_else(above)
    };
    real(folder_of(path)).is_some_and(|folder| real(dir) == Some(folder))
}
