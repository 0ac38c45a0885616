"""Says what a committed state is, through SQLite itself, in a process of its own: one that closes a
descriptor of a database drops the locks that it has on it.

One JSON object per line each way, `{"do": NAME, ...}` and the answer. What a transaction reads is
compared by its SHA-256; `save` writes the bytes where a difference is to be looked at.
"""

import hashlib
import json
import os
import random
import sqlite3
import sys

import ledger

# Writers in a rollback mode leave a reader that polls few gaps, and one that is about to commit keeps new
# readers out while an old one holds it up: the oracle outlasts them all.
PATIENCE_SECONDS = 6 * ledger.PATIENCE_SECONDS


class Oracle:
    def __init__(self):
        self.path = None
        self.holder = None
        self.bytes = b""
        # Transactions that what was read last counts.
        self.count = 0
        self.readers = []
        self.other = None
        self.random = random.Random(0)
        self.settings = {}
        self.bytes_max = 0

    def create(self, path, page_size, auto_vacuum, journal_mode, rows):
        ledger.create(path, page_size, auto_vacuum, journal_mode, rows)
        return {}

    def use(self, path, seed, settings, bytes_max):
        """The database that the rest is about."""
        self.path, self.random, self.settings = path, random.Random(seed), settings
        self.bytes_max = bytes_max
        return {}

    def holding(self):
        if self.holder is None:
            self.holder = ledger.connect(self.path, self.settings, PATIENCE_SECONDS)
        return self.holder

    def second(self):
        if self.other is None:
            self.other = ledger.connect(self.path, self.settings, PATIENCE_SECONDS)
        return self.other

    def read(self, conn):
        """The whole database as the transaction of `conn` sees it."""
        self.count = conn.execute("SELECT n FROM front").fetchone()[0]
        # A transaction that is rolled back may leave other bytes in free pages, which no journal has and
        # nothing counts: SQLite's cache would still have those of before.
        conn.execute("PRAGMA shrink_memory")
        return conn.serialize()

    def hold(self):
        """A read transaction that stays."""
        conn = self.holding()
        conn.execute("BEGIN")
        conn.execute("SELECT n FROM front").fetchall()
        return {}

    def lock(self):
        """A write transaction that writes nothing: the state stays, checkpointers go on."""
        self.holding().execute("BEGIN IMMEDIATE")
        return {}

    def before(self):
        """Reads, and lets go: what is pinned after must be equal if what is read then is equal."""
        conn = self.holding()
        conn.execute("BEGIN")
        self.bytes = self.read(conn)
        conn.execute("ROLLBACK")
        return {}

    def after(self, how):
        """Whether the state is still the one of `hold`, `lock` or `before`, and its digest; lets all of
        it go. `how` is one of these, or `alone`: nobody else writes."""
        is_same = how in ("lock", "alone")
        first = self.count
        if how in ("hold", "lock"):
            self.bytes = self.read(self.holder)
            first = self.count
        if how != "lock":
            conn = self.second()
            conn.execute("BEGIN")
            found = self.read(conn)
            conn.execute("ROLLBACK")
            is_same = is_same or found == self.bytes
            self.bytes = found
        if how == "alone":
            first = self.count
        if how in ("hold", "lock"):
            self.holder.execute("ROLLBACK")
        digest = hashlib.sha256(self.bytes).hexdigest()
        return {"same": is_same, "digest": digest, "first": first, "last": self.count}

    def save(self, path):
        with open(path, "wb") as file:
            file.write(self.bytes)
        return {}

    def small(self):
        """A commit."""
        conn = self.second()
        conn.execute("BEGIN IMMEDIATE")
        ledger.work(conn, self.random, "small", "oracle", self.bytes_max)
        conn.execute("COMMIT")

    def disturb(self, kind):
        """What may happen while something is pinned."""
        conn, is_busy = self.second(), False
        for _ in range(3):
            self.small()
        if kind == "shrink":
            conn.execute("BEGIN IMMEDIATE")
            ledger.shrink(conn, self.random)
            ledger.count(conn)
            conn.execute("COMMIT")
            conn.execute("PRAGMA incremental_vacuum").fetchall()
            conn.execute("VACUUM")
            is_busy = ledger.checkpoint(conn, "PASSIVE")
        elif kind != "commits":
            is_busy = ledger.checkpoint(conn, kind)
        for _ in range(3):
            self.small()
        return {"busy": is_busy}

    def crowd(self):
        """Readers that take every place of the log's index, each of another state."""
        for _ in range(5):
            self.small()
            conn = ledger.connect(self.path, self.settings)
            self.readers.append(conn)
            conn.execute("BEGIN")
            conn.execute("SELECT n FROM front").fetchall()
        self.small()
        return {}

    def settle(self):
        """Puts all of the log into the database file, as far as readers let that happen."""
        ledger.checkpoint(self.second(), "PASSIVE")
        return {}

    def lengthen(self, frames):
        """A log of so many frames, which a reader keeps from being begun anew."""
        conn = ledger.connect(self.path, self.settings)
        self.readers.append(conn)
        self.small()
        conn.execute("BEGIN")
        conn.execute("SELECT n FROM front").fetchall()
        page_size = conn.execute("PRAGMA page_size").fetchone()[0]
        second = self.second()
        while os.path.getsize(self.path + "-wal") < frames * (page_size + 24):
            second.execute("BEGIN IMMEDIATE")
            ledger.count(second)
            second.execute("UPDATE rows SET payload = hex(randomblob(length(payload) / 2 + 1))")
            second.execute("COMMIT")
        return {}

    def disperse(self):
        for conn in self.readers:
            conn.close()
        self.readers = []
        return {}

    def close(self):
        """Closes all that is open of the database."""
        self.disperse()
        for conn in (self.holder, self.other):
            if conn is not None:
                conn.close()
        self.holder = self.other = None
        return {}

    def check(self, path):
        """A copy, opened as a restored application would: its integrity and its invariant."""
        conn = sqlite3.connect(path, isolation_level=None)
        try:
            rows = conn.execute("PRAGMA integrity_check(5)").fetchall()
            said = "; ".join(str(row[0]) for row in rows)
            if said == "ok":
                said = conn.execute(ledger.INVARIANT).fetchone()[0]
        except sqlite3.DatabaseError as error:
            said = str(error)
        finally:
            conn.close()
        for end in ("", "-wal", "-shm", "-journal"):
            if os.path.exists(path + end):
                os.remove(path + end)
        return {"said": said}

    def live(self):
        """The same of the database itself, which stays."""
        conn = self.second()
        rows = conn.execute("PRAGMA integrity_check(5)").fetchall()
        said = "; ".join(str(row[0]) for row in rows)
        if said == "ok":
            said = conn.execute(ledger.INVARIANT).fetchone()[0]
        return {"said": said}


def main():
    oracle = Oracle()
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked.pop("do")
        try:
            answer = getattr(oracle, name)(**asked)
        except sqlite3.Error as error:
            answer = {"error": f"{name}: {error}"}
            if oracle.other is not None and oracle.other.in_transaction:
                oracle.other.execute("ROLLBACK")
        print(json.dumps(answer), flush=True)
    oracle.close()


main()
