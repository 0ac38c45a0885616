#!/usr/bin/env python3
"""Backs a database up and restores it in place, with nothing but a Redis client.

    stillfs serve /var/lib/app --backup-root /backup &
    python3 examples/backup_statements.py 6380

Needs the package `redis` (Debian: python3-redis). Any other client does the same: the statements are
commands like all others, and BACKUP STATUS answers pairs of names and values.
"""

import sys
import time

import redis


def status(client):
    """What the last job is, or came to."""
    words = client.execute_command("BACKUP", "STATUS")
    return dict(zip(words[::2], words[1::2]))


def wait(client, job):
    """Waits for the end of a job that was just started, and expects that it went well."""
    while True:
        found = status(client)
        assert found["job"] == job, f"somebody else started job {found['job']}"
        if found["state"] not in ("running", "finishing"):
            break
        time.sleep(0.05)
    if found["state"] != "done":
        sys.exit(f"the {found['statement']} {found['state']}: {found['error']}")
    return found


def get(client, key):
    """Reads a key; while a backup takes the place of the database, that has to wait."""
    while True:
        try:
            return client.get(key)
        except redis.BusyLoadingError:
            time.sleep(0.05)


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 6380
    client = redis.Redis(port=port, decode_responses=True)
    client.set("greeting", "hello")

    job = client.execute_command("BACKUP", "DATABASE", "TO", "app")
    print("backup", wait(client, job)["backup"])

    client.set("greeting", "overwritten by mistake")
    job = client.execute_command("RESTORE", "DATABASE", "FROM", "app")
    print("greeting:", get(client, "greeting"))
    print("history", wait(client, job)["history"])

    # Beside what is served, which goes on meanwhile.
    job = client.execute_command("RESTORE", "DATABASE", "FROM", "app", "TO", f"copy-{time.time_ns()}")
    print("copy in", wait(client, job)["target"])


if __name__ == "__main__":
    main()
