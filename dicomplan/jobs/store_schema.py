"""The tables of the job store, and how an older store becomes one of this release."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dicomplan.errors import UsageError

_APPLICATION_ID = 0x44504A53  # "DPJS"

# Each entry takes the schema one version up; PRAGMA user_version counts them.
_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, generation INTEGER NOT NULL, config TEXT NOT NULL,
        inbox TEXT NOT NULL, outbox TEXT NOT NULL, template TEXT NOT NULL, version TEXT NOT NULL,
        received_s INTEGER NOT NULL, structure_set_uid TEXT NOT NULL, series_uid TEXT NOT NULL,
        memory_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL, follows TEXT, superseded_by TEXT,
        state TEXT NOT NULL, plan_status TEXT, exit_code INTEGER, attempts INTEGER NOT NULL DEFAULT 0, error TEXT,
        owner TEXT, lease_until_s REAL NOT NULL DEFAULT 0, not_before_s REAL NOT NULL DEFAULT 0,
        started_s REAL, ended_s REAL, moved INTEGER NOT NULL DEFAULT 0,
        UNIQUE (key, outbox, generation)
    );
    CREATE TABLE files (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, uid TEXT NOT NULL, sha256 TEXT NOT NULL,
        kind TEXT NOT NULL, container_sha256 TEXT NOT NULL, size INTEGER NOT NULL, planned_on INTEGER NOT NULL
    );
    CREATE INDEX files_job ON files (job);
    CREATE INDEX files_container ON files (container_sha256);
    CREATE INDEX files_uid ON files (uid);
    CREATE INDEX jobs_state ON jobs (state);
    CREATE INDEX jobs_series ON jobs (series_uid);
    CREATE INDEX jobs_structures ON jobs (structure_set_uid);
    """,
    """
    ALTER TABLE jobs ADD COLUMN handed_over INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE handovers (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, destination TEXT NOT NULL, file TEXT NOT NULL,
        uid TEXT NOT NULL, sent INTEGER NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, at_s REAL NOT NULL,
        PRIMARY KEY (job, destination, file)
    );
    """,
    """
    CREATE TABLE first_seen (
        inbox TEXT NOT NULL, sha256 TEXT NOT NULL, boot TEXT NOT NULL, boot_s REAL NOT NULL, wall_s REAL NOT NULL,
        PRIMARY KEY (inbox, sha256)
    );
    """,
)
SCHEMA_VERSION = len(_MIGRATIONS)
"""Version of the schema that this release writes."""


def check_ours(base: sqlite3.Connection, path: Path) -> None:
    """Raise UsageError for a database of another program, before anything in it is changed; ``path``: for the message."""
    # in this order: a store that another process is just making has its tables no sooner than its mark
    tables = base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    mark = int(base.execute("PRAGMA application_id").fetchone()[0])
    if mark != _APPLICATION_ID and (mark or tables):
        raise UsageError("is a database of another program, no job store", file=path)


def migrate(base: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, inside of a transaction of the caller.

    Raises UsageError for the store of a newer release; ``path``: for the message.
    """
    version = int(base.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"the job store has schema {version}, this release knows up to {SCHEMA_VERSION}",
            file=path,
            hint="use the newer release of dicomplan",
        )
    for number in range(version, SCHEMA_VERSION):
        for statement in _MIGRATIONS[number].split(";"):
            if statement.strip():
                base.execute(statement)
    if version < SCHEMA_VERSION:
        base.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        base.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
