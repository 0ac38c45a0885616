"""An unmodified application that writes until its standard input ends, or until it is killed.

    writer.py '{"path": ..., "seed": N, ...}'

One JSON object of counts on standard output at the end. It ends with the process that started it, whose
end of the pipe closes.
"""

import collections
import json
import os
import random
import select
import sqlite3
import subprocess
import sys
import time

import ledger

COMMAND_LINE = """.bail on
.timeout 20000
{pragmas}
BEGIN IMMEDIATE;
UPDATE front SET n = n + 1;
UPDATE accounts SET balance = balance - 7 WHERE id = {one};
UPDATE accounts SET balance = balance + 7 WHERE id = {other};
INSERT INTO rows(owner, payload) VALUES ('command', hex(randomblob({length})));
UPDATE back SET n = n + 1;
{end};
"""


class Writer:
    def __init__(self, wanted):
        self.wanted = wanted
        self.path = wanted["path"]
        self.random = random.Random(wanted["seed"])
        self.settings = wanted.get("settings", {})
        self.counts = collections.Counter()
        self.conn = None

    def connection(self):
        if self.conn is None:
            self.conn = ledger.connect(self.path, self.settings, self.wanted.get("patience", 20))
        return self.conn

    def close(self):
        if self.conn is not None:
            self.conn.close()
            self.conn = None

    def step(self):
        """One thing that an application does."""
        kinds = self.wanted.get("kinds", {"transaction": 1})
        kind = self.random.choices(list(kinds), list(kinds.values()))[0]
        try:
            getattr(self, kind)()
            self.counts[kind] += 1
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" not in text and "busy" not in text:
                raise
            if self.conn is not None and self.conn.in_transaction:
                self.conn.execute("ROLLBACK")
            self.counts["busy"] += 1
            self.counts["busy " + kind] += 1
        if self.wanted.get("reopens"):
            self.close()

    def transaction(self):
        owner = str(self.wanted["seed"])
        is_kept = ledger.transaction(
            self.connection(), self.random, owner, self.wanted.get("bytes_max", 400_000)
        )
        self.counts["commits" if is_kept else "rollbacks"] += 1

    def small(self):
        """A commit of a few pages, which must not be refused."""
        conn = self.connection()
        conn.execute("BEGIN IMMEDIATE")
        ledger.work(conn, self.random, "small", "small", self.wanted.get("bytes_max", 400_000))
        conn.execute("COMMIT")
        self.counts["commits"] += 1

    def attached(self):
        """One transaction over several databases."""
        conn = self.connection()
        names = ["main"]
        for number, path in enumerate(self.wanted["others"]):
            names.append(f"other{number}")
            if not any(row[1] == names[-1] for row in conn.execute("PRAGMA database_list")):
                conn.execute(f"ATTACH ? AS {names[-1]}", (path,))
        # Always in this order: two that wait for each other would wait for long.
        conn.execute("BEGIN")
        for name in names:
            ledger.count(conn, name)
        conn.execute("COMMIT" if self.random.random() < 0.8 else "ROLLBACK")

    def spill(self):
        """A transaction that does not fit its cache, so that uncommitted pages get into the log."""
        conn = self.connection()
        conn.execute("PRAGMA cache_size=10").fetchall()
        conn.execute("BEGIN IMMEDIATE")
        ledger.work(conn, self.random, "large", "spill", self.wanted.get("bytes_max", 400_000))
        ledger.work(conn, self.random, "rewrite", "spill", self.wanted.get("bytes_max", 400_000))
        conn.execute("COMMIT" if self.random.random() < 0.5 else "ROLLBACK")
        conn.execute("PRAGMA cache_size=-2000").fetchall()

    def stuck(self):
        """A transaction that has spilled and never ends: for kill -9."""
        conn = self.connection()
        conn.execute("PRAGMA cache_size=5").fetchall()
        conn.execute("BEGIN IMMEDIATE")
        ledger.work(conn, self.random, "rewrite", "stuck", 10**9)
        ledger.work(conn, self.random, "large", "stuck", 10**9)
        conn.execute("UPDATE accounts SET balance = balance + 1")
        print("stuck", flush=True)
        sys.stdin.read()
        sys.exit(0)

    def checkpoint(self):
        kind = self.random.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
        is_busy = ledger.checkpoint(self.connection(), kind)
        self.counts[kind + (" busy" if is_busy else "")] += 1

    def switch(self):
        """Another journal mode, which lasts."""
        mode = self.random.choice(["WAL", "WAL", "DELETE", "TRUNCATE"])
        self.connection().execute(f"PRAGMA journal_mode={mode}").fetchall()

    def vacuum(self):
        self.connection().execute(self.random.choice(["VACUUM", "PRAGMA incremental_vacuum(20)"]))

    def command(self):
        """The sqlite3 command line, once."""
        one, other = self.random.sample(range(1, 101), 2)
        pragmas = "\n".join(f"PRAGMA {name}={value};" for name, value in self.settings.items())
        text = COMMAND_LINE.format(
            pragmas=pragmas,
            one=one,
            other=other,
            length=self.random.choice([1, 50, 1500]),
            end=self.random.choice(["COMMIT", "COMMIT", "ROLLBACK"]),
        )
        done = subprocess.run(
            ["sqlite3", self.path], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise sqlite3.OperationalError(done.stderr)

    def run(self):
        pause = self.wanted.get("pause_ms", 2) / 1000
        while not select.select([sys.stdin], [], [], self.random.random() * 2 * pause)[0]:
            self.step()
        self.close()
        try:
            print(json.dumps(self.counts), flush=True)
        except BrokenPipeError:
            # Whoever asked has died.
            os._exit(1)


Writer(json.loads(sys.argv[1])).run()
