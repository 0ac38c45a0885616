"""An application with an SQLite database in WAL mode, in a process of its own: SQLite's locks belong to
processes, and a pin is taken by another one.

    python3 -m measure.wal_writer DIRECTORY MIB PAGE_BYTES    makes DIRECTORY/live.db, then answers each line:

      change PERCENT SEED   changes a row on so many of the pages, drawn at random; they stay in the log
      log MIB               commits until the log has so much
      empty                 everything into the database, and an empty log
      traffic on | off      200 commits a second of 4 rows, with SQLite's own checkpoints
"""

import json
import os
import random
import sqlite3
import sys
import threading
import time
from pathlib import Path

NAME = "live.db"
# Of a commit, where many are changed.
COMMIT_ROWS = 1000
COMMITS_PER_SECOND = 200
SQLITE_CHECKPOINT_PAGES = 1000


class Writer:
    def __init__(self, directory, mib, page_bytes):
        self.path = Path(directory) / NAME
        self.path.parent.mkdir()
        self.page_bytes = page_bytes
        # One row fills a page but for what SQLite needs of it.
        self.row_bytes = page_bytes - 200
        self.connection = self.connect(0)
        self.connection.execute(f"PRAGMA page_size = {page_bytes}")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, value BLOB)")
        self.rows = mib * (1 << 20) // page_bytes
        values = ((self.value(),) for _ in range(self.rows))
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO entry (value) VALUES (?)", values)
        self.connection.execute("COMMIT")
        self.empty()
        self.is_over = threading.Event()
        self.thread = None

    def connect(self, checkpoint_pages):
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
        return connection

    def value(self):
        return os.urandom(self.row_bytes)

    def put(self, ids):
        for at in range(0, len(ids), COMMIT_ROWS):
            self.connection.execute("BEGIN IMMEDIATE")
            pairs = ((self.value(), one) for one in ids[at : at + COMMIT_ROWS])
            self.connection.executemany("UPDATE entry SET value = ? WHERE id = ?", pairs)
            self.connection.execute("COMMIT")

    def log_bytes(self):
        return os.stat(f"{self.path}-wal").st_size

    def change(self, percent, seed):
        count = round(self.rows * float(percent) / 100)
        self.put(random.Random(int(seed)).sample(range(1, self.rows + 1), count))

    def log(self, mib):
        numbers = random.Random(0)
        while self.log_bytes() < int(mib) << 20:
            self.put([numbers.randint(1, self.rows) for _ in range(COMMIT_ROWS)])

    def empty(self):
        busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise RuntimeError("the log cannot be emptied: somebody reads")

    def traffic(self, state):
        if state == "on":
            self.is_over.clear()
            self.thread = threading.Thread(target=self.commit_some)
            self.thread.start()
        elif self.thread:
            self.is_over.set()
            self.thread.join()
            self.thread = None

    def commit_some(self):
        connection = self.connect(SQLITE_CHECKPOINT_PAGES)
        numbers = random.Random(1)
        due = time.monotonic()
        while not self.is_over.is_set():
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(4):
                pair = (self.value(), numbers.randint(1, self.rows))
                connection.execute("UPDATE entry SET value = ? WHERE id = ?", pair)
            connection.execute("COMMIT")
            due = max(due + 1 / COMMITS_PER_SECOND, time.monotonic() - 1)
            self.is_over.wait(max(due - time.monotonic(), 0))
        connection.close()


def main():
    directory, mib, page_bytes = sys.argv[1:]
    writer = Writer(directory, int(mib), int(page_bytes))
    works = {"change": writer.change, "log": writer.log, "empty": writer.empty, "traffic": writer.traffic}
    print(json.dumps({"rows": writer.rows}), flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        works[word](*rest)
        print(json.dumps({"log_bytes": writer.log_bytes()}), flush=True)
    writer.traffic("off")


if __name__ == "__main__":
    main()
