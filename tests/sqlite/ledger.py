"""What the stress writes: an unmodified application's transactions, each of which keeps the invariant.

The schema is schema.sql, the invariant invariant.sql. Every transaction counts itself in two tables that
lie far from each other. Transactions are small, large, larger than the cache, or rolled back.
"""

import os
import sqlite3

HERE = os.path.dirname(os.path.abspath(__file__))


def text_of(name):
    with open(os.path.join(HERE, name), encoding="ascii") as file:
        return file.read()


INVARIANT = text_of("invariant.sql")
# How long a connection waits for a lock; longer than anybody here holds one.
PATIENCE_SECONDS = 20


def connect(path, settings=None, patience=PATIENCE_SECONDS):
    """A connection in autocommit mode, as the settings say."""
    conn = sqlite3.connect(path, timeout=patience, isolation_level=None)
    for pragma, value in (settings or {}).items():
        conn.execute(f"PRAGMA {pragma}={value}").fetchall()
    return conn


def create(path, page_size, auto_vacuum, journal_mode, rows):
    """A new database with so many rows."""
    conn = connect(path, {"page_size": page_size, "auto_vacuum": auto_vacuum})
    conn.execute(f"PRAGMA journal_mode={journal_mode}").fetchall()
    conn.executescript(text_of("schema.sql"))
    conn.execute("BEGIN IMMEDIATE")
    for _ in range(rows):
        insert(conn, "first", 1000)
    count(conn)
    conn.execute("COMMIT")
    conn.close()


def count(conn, schema="main"):
    conn.execute(f"UPDATE {schema}.front SET n = n + 1")
    conn.execute(f"UPDATE {schema}.back SET n = n + 1")


def insert(conn, owner, length):
    """A row whose payload has `length` characters."""
    conn.execute(
        "INSERT INTO rows(owner, payload) VALUES (?, hex(randomblob(?)))",
        (owner, max(1, length // 2)),
    )


def transfer(conn, random):
    """Moves an amount from one account to another."""
    one, other = random.sample(range(1, 101), 2)
    amount = random.randint(1, 100)
    conn.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, one))
    conn.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, other))


def shrink(conn, random, share=2):
    """Takes rows away, one in `share`."""
    conn.execute("DELETE FROM rows WHERE id % ? = ?", (share, random.randrange(share)))


def work(conn, random, kind, owner, bytes_max):
    """What one transaction does, without BEGIN and COMMIT."""
    conn.execute("UPDATE front SET n = n + 1")
    if kind == "small":
        transfer(conn, random)
        if random.random() < 0.5:
            insert(conn, owner, random.choice([1, 40, 400, 3000]))
    elif kind == "large":
        for _ in range(random.randint(10, 60)):
            insert(conn, owner, random.choice([40, 400, 3000, 20000]))
        for _ in range(20):
            transfer(conn, random)
    elif kind == "rewrite":
        conn.execute(
            "UPDATE rows SET payload = hex(randomblob(1 + abs(random()) % 900)) WHERE id % 5 = ?",
            (random.randrange(5),),
        )
    elif kind == "nested":
        transfer(conn, random)
        conn.execute("SAVEPOINT inner")
        shrink(conn, random)
        transfer(conn, random)
        conn.execute("ROLLBACK TO inner")
        conn.execute("RELEASE inner")
        insert(conn, owner, 100)
    if conn.execute("SELECT bytes FROM digest").fetchone()[0] > bytes_max:
        shrink(conn, random, 2 if random.random() < 0.7 else 1)
    conn.execute("UPDATE back SET n = n + 1")


def transaction(conn, random, owner, bytes_max):
    """One whole transaction; gives whether it was committed."""
    kind = random.choices(["small", "large", "rewrite", "nested"], [10, 2, 2, 2])[0]
    conn.execute(random.choice(["BEGIN IMMEDIATE", "BEGIN"]))
    try:
        work(conn, random, kind, owner, bytes_max)
        is_kept = random.random() >= 0.25
        conn.execute("COMMIT" if is_kept else "ROLLBACK")
        return is_kept
    except sqlite3.OperationalError:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def checkpoint(conn, kind):
    """A checkpoint that waits for nobody; gives whether it was busy."""
    patience_ms = conn.execute("PRAGMA busy_timeout").fetchone()[0]
    conn.execute("PRAGMA busy_timeout=0").fetchall()
    try:
        row = conn.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
    finally:
        # Whatever is done next waits again, also where this was refused.
        conn.execute(f"PRAGMA busy_timeout={patience_ms}").fetchall()
    return row[0] != 0
