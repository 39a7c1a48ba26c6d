"""The job store: one SQLite file that several watchers of one host and the command line share.

Every change of state is one transaction that names the state it starts from: of two processes that want the same job,
one finds it changed. Nothing in it names a patient or an input file; identifiers of DICOM objects are UIDs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType

from dicomplan.errors import UsageError
from dicomplan.jobs.first_seen import Moment
from dicomplan.jobs.store_place import check_place
from dicomplan.jobs.store_schema import check_ours, migrate
from dicomplan.jobs.values import ACTIVE, MAX_ATTEMPTS, Job, JobFile, NewJob, State

_BUSY_S = 30.0

_NEW = tuple(field.name for field in fields(NewJob))
_ALL = tuple(field.name for field in fields(Job))


@dataclass(frozen=True)
class Handover:
    """What became of sending one file of a result to one destination. ``status``: the receiver's, or why it failed."""

    job: str
    destination: str
    file: str
    uid: str
    sent: bool
    status: str
    attempts: int
    at_s: float


class JobStore:
    """Context of an open store; makes the file (mode 0600) and brings an older schema up to date.

    WAL with ``synchronous=FULL``: a transaction that returned survives a power cut. Raises UsageError on a network file
    system, for a file that is no job store, and for one of a newer release.
    """

    def __init__(self, path: Path, *, must_exist: bool = False, clock: Callable[[], float] | None = None) -> None:
        import time

        self.path = Path(path).expanduser().absolute()
        self._clock = clock or time.time
        check_place(self.path)
        if must_exist and not self.path.exists():
            raise UsageError(
                "there is no job store", file=self.path, hint="`dicomplan watch` makes it; see --store FILE"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # made before SQLite would, whose files (journal included) take over its mode
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            os.chmod(self.path, 0o600)
        except OSError as error:
            raise UsageError(f"the job store cannot be opened: {error.strerror}", file=self.path) from error
        self._base = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._base.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise UsageError(f"is no job store: {error}", file=self.path) from error
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> JobStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _prepare(self) -> None:
        base = self._base
        check_ours(base, self.path)
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.execute("PRAGMA foreign_keys = ON")
        with self._change():
            migrate(base, self.path)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield self._base
        except BaseException:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    # Reading

    def job(self, id_or_start: str) -> Job:
        """The job of an identifier, or of its first digits. Raises UsageError if there is none, or several."""
        found = self._jobs("WHERE substr(id, 1, ?) = ? ORDER BY id", len(id_or_start), id_or_start)
        if len(found) != 1 or not id_or_start:
            what = f"{len(found)} jobs begin" if found and id_or_start else "no job begins"
            raise UsageError(f"{what} with '{id_or_start}'", hint="see `dicomplan jobs list`")
        return found[0]

    def find(self, key: str, outbox: str) -> Job | None:
        """The latest generation of a key in an outbox."""
        found = self._jobs("WHERE key = ? AND outbox = ? ORDER BY generation DESC LIMIT 1", key, outbox)
        return found[0] if found else None

    def jobs(self, states: Sequence[State] = (), outbox: str | None = None) -> list[Job]:
        """All jobs (of some states, of one outbox) in the order of their receipt."""
        clauses: list[str] = []
        values: list[object] = []
        if states:
            clauses.append(f"state IN ({', '.join('?' * len(states))})")
            values += list(states)
        if outbox is not None:
            clauses.append("outbox = ?")
            values.append(outbox)
        where = f"WHERE {' AND '.join(clauses)} " if clauses else ""
        return self._jobs(f"{where}ORDER BY received_s, rowid", *values)

    def of_file(self, container_sha256: str, outbox: str) -> list[Job]:
        """Jobs that a file with this content is an input of, oldest first."""
        return self._jobs(
            "WHERE outbox = ? AND id IN (SELECT job FROM files WHERE container_sha256 = ?) ORDER BY received_s, rowid",
            outbox,
            container_sha256,
        )

    def of_objects(self, uids: Sequence[str], outbox: str) -> list[Job]:
        """Jobs that any object of these SOP instance UIDs is an input of, oldest first."""
        found: dict[str, Job] = {}
        for start in range(0, len(uids), 500):
            part = uids[start : start + 500]
            marks = ", ".join("?" * len(part))
            clause = (
                f"WHERE outbox = ? AND id IN (SELECT job FROM files WHERE uid IN ({marks})) ORDER BY received_s, rowid"
            )
            found.update({job.id: job for job in self._jobs(clause, outbox, *part)})
        return list(found.values())

    def of_series(self, series_uid: str, outbox: str) -> list[Job]:
        """Jobs on a CT series, oldest first."""
        return self._jobs("WHERE outbox = ? AND series_uid = ? ORDER BY received_s, rowid", outbox, series_uid)

    def of_structures(self, structure_set_uid: str, outbox: str) -> list[Job]:
        """Jobs on a structure set, oldest first."""
        clause = "WHERE outbox = ? AND structure_set_uid = ? ORDER BY received_s, rowid"
        return self._jobs(clause, outbox, structure_set_uid)

    def files(self, job: str) -> list[JobFile]:
        """The inputs of a job."""
        rows = self._base.execute(
            "SELECT uid, sha256, kind, container_sha256, size, planned_on FROM files WHERE job = ?", (job,)
        )
        return [JobFile(uid, sha, kind, container, size, bool(on)) for uid, sha, kind, container, size, on in rows]

    def containers(self, outbox: str, config: str, replan: bool = False) -> set[str]:
        """Content hashes of the files that are inputs of jobs of one outbox and configuration.

        Not counted: files of a job that the service itself refused for what was missing, once they have been moved away:
        handed in again, they are looked at again; with ``replan`` so are those of all jobs.
        """
        rows = self._base.execute(
            "SELECT DISTINCT container_sha256 FROM files JOIN jobs ON jobs.id = files.job WHERE outbox = ? AND config = ?"
            " AND NOT (moved AND (? OR (state = 'refused' AND exit_code IS NULL)))",
            (outbox, config, replan),
        )
        return {row[0] for row in rows}

    def stamp(self) -> tuple[int, int]:
        """Changes whenever this or another process changed the store."""
        return int(self._base.execute("PRAGMA data_version").fetchone()[0]), self._base.total_changes

    def unmoved(self, outbox: str) -> list[Job]:
        """Ended jobs whose input may still lie in the inbox."""
        return self._jobs(
            f"WHERE outbox = ? AND NOT moved AND state NOT IN {ACTIVE} ORDER BY received_s, rowid", outbox
        )

    def not_handed_over(self, outbox: str) -> list[Job]:
        """Done jobs whose result was not handed over completely, oldest first."""
        clause = "WHERE outbox = ? AND state = 'done' AND NOT handed_over ORDER BY ended_s, rowid"
        return self._jobs(clause, outbox)

    def counts(self, outbox: str) -> dict[str, int]:
        """Number of jobs in each state."""
        rows = self._base.execute("SELECT state, count(*) FROM jobs WHERE outbox = ? GROUP BY state", (outbox,))
        return {str(state): int(count) for state, count in rows}

    def _jobs(self, clause: str, *values: object) -> list[Job]:
        rows = self._base.execute(f"SELECT {', '.join(_ALL)} FROM jobs {clause}", values)
        found = []
        for row in rows:
            entries = dict(zip(_ALL, row, strict=True))
            entries["moved"], entries["handed_over"] = bool(entries["moved"]), bool(entries["handed_over"])
            found.append(Job(**entries))
        return found

    # Changing

    def add(
        self,
        job: NewJob,
        files: Sequence[JobFile],
        supersedes: Sequence[str] = (),
        before_commit: Callable[[], None] | None = None,
    ) -> bool:
        """Store a new job and mark those that it supersedes, in one transaction; False if its key is there already.

        ``before_commit`` is called when the key is known to be ours, before anybody else can see the job.
        """
        values = asdict(job)
        try:
            with self._change() as base:
                base.execute(
                    f"INSERT INTO jobs ({', '.join(_NEW)}) VALUES ({', '.join('?' * len(_NEW))})",
                    [values[name] for name in _NEW],
                )
                base.executemany(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(job.id, f.uid, f.sha256, f.kind, f.container_sha256, f.size, f.planned_on) for f in files],
                )
                for old in supersedes:
                    base.execute(
                        f"UPDATE jobs SET state = 'superseded', superseded_by = ?, owner = NULL, ended_s = ?"
                        f" WHERE id = ? AND state IN {ACTIVE}",
                        (job.id, self._clock(), old),
                    )
                if job.state not in ACTIVE:
                    base.execute("UPDATE jobs SET ended_s = ? WHERE id = ?", (self._clock(), job.id))
                if before_commit is not None:
                    before_commit()
        except sqlite3.IntegrityError:
            return False
        return True

    def claimable(self, outbox: str) -> list[Job]:
        """Jobs that may start now, oldest first."""
        return self._jobs(
            "WHERE outbox = ? AND state IN ('received', 'waiting') AND not_before_s <= ? ORDER BY received_s, rowid",
            outbox,
            self._clock(),
        )

    def claim(self, job: str, owner: str, lease_s: float) -> bool:
        """Take the lease of a job; False if somebody else was quicker."""
        now = self._clock()
        return self._update(
            "UPDATE jobs SET state = 'running', owner = ?, lease_until_s = ?, started_s = ?"
            " WHERE id = ? AND state IN ('received', 'waiting')",
            (owner, now + lease_s, now, job),
        )

    def renew(self, owner: str, lease_s: float) -> set[str]:
        """Renew the leases of an owner; the jobs that it still holds (others were cancelled or superseded)."""
        with self._change() as base:
            base.execute(
                "UPDATE jobs SET lease_until_s = ? WHERE owner = ? AND state = 'running'",
                (self._clock() + lease_s, owner),
            )
            rows = base.execute("SELECT id FROM jobs WHERE owner = ? AND state = 'running'", (owner,))
            return {row[0] for row in rows}

    def held(self, owner: str) -> set[str]:
        """The running jobs of an owner."""
        rows = self._base.execute("SELECT id FROM jobs WHERE owner = ? AND state = 'running'", (owner,))
        return {row[0] for row in rows}

    def end(
        self,
        job: str,
        owner: str,
        state: State,
        *,
        exit_code: int | None = None,
        plan_status: str | None = None,
        error: str | None = None,
    ) -> bool:
        """End a running job that ``owner`` holds; False if it does not hold it any more."""
        return self._update(
            "UPDATE jobs SET state = ?, exit_code = ?, plan_status = ?, error = ?, owner = NULL, ended_s = ?"
            " WHERE id = ? AND owner = ? AND state = 'running'",
            (state, exit_code, plan_status, error, self._clock(), job, owner),
        )

    def hand_back(self, job: str, owner: str, *, delay_s: float = 0.0, error: str | None = None) -> bool:
        """Give a running job back so that it is tried again; costs no attempt."""
        return self._update(
            "UPDATE jobs SET state = 'waiting', owner = NULL, not_before_s = ?, error = coalesce(?, error)"
            " WHERE id = ? AND owner = ? AND state = 'running'",
            (self._clock() + delay_s, error, job, owner),
        )

    def died(self, job: str, owner: str, error: str, *, delay_s: float, exit_code: int | None = None) -> State | None:
        """Count an attempt of a job whose worker died; it waits, or has failed after the third. None: not held."""
        with self._change() as base:
            row = base.execute(
                "SELECT attempts FROM jobs WHERE id = ? AND owner = ? AND state = 'running'", (job, owner)
            ).fetchone()
            if row is None:
                return None
            attempts = int(row[0]) + 1
            state: State = "failed" if attempts >= MAX_ATTEMPTS else "waiting"
            now = self._clock()
            base.execute(
                "UPDATE jobs SET state = ?, attempts = ?, error = ?, exit_code = ?, owner = NULL, not_before_s = ?,"
                " ended_s = ? WHERE id = ?",
                (state, attempts, error, exit_code, now + delay_s, now if state == "failed" else None, job),
            )
            return state

    def orphaned(self, is_alive: Callable[[str], bool | None], outbox: str) -> list[Job]:
        """Running jobs whose owner is gone: its process does not run any more, or (other hosts) its lease is over."""
        running = self.jobs(("running",), outbox)
        return [job for job in running if _is_orphan(job, is_alive, self._clock())]

    def adopt(self, job: Job, owner: str, lease_s: float) -> bool:
        """Take over the lease of an orphaned job; False if another watcher did."""
        return self._update(
            "UPDATE jobs SET owner = ?, lease_until_s = ? WHERE id = ? AND state = 'running' AND owner IS ?",
            (owner, self._clock() + lease_s, job.id, job.owner),
        )

    def cancel(self, job: str) -> bool:
        """Cancel a job that has not ended; False if it has. Its worker is stopped by the watcher that runs it."""
        return self._update(
            f"UPDATE jobs SET state = 'cancelled', owner = NULL, ended_s = ? WHERE id = ? AND state IN {ACTIVE}",
            (self._clock(), job),
        )

    def retry(self, job: str) -> bool:
        """Let a failed or cancelled job run again, with all its attempts; False in any other state."""
        return self._update(
            "UPDATE jobs SET state = 'waiting', attempts = 0, not_before_s = 0, ended_s = NULL, exit_code = NULL"
            " WHERE id = ? AND state IN ('failed', 'cancelled')",
            (job,),
        )

    def add_files(self, job: str, files: Sequence[JobFile], config: str) -> None:
        """Add files that move with a job; its input is to be moved (again). ``config``: under which the job is known now."""
        with self._change() as base:
            base.executemany(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, 0)",
                [(job, f.uid, f.sha256, f.kind, f.container_sha256, f.size) for f in files],
            )
            base.execute("UPDATE jobs SET moved = 0, config = ? WHERE id = ?", (config, job))

    def set_moved(self, job: str) -> None:
        """Note that the input of an ended job has been moved out of the inbox (or is left there on purpose)."""
        self._update("UPDATE jobs SET moved = 1 WHERE id = ?", (job,))

    # Waiting

    def first_seen(self, inbox: str) -> dict[str, Moment]:
        """When each waiting file of an inbox was first seen, by the SHA-256 of its content."""
        rows = self._base.execute("SELECT sha256, boot, boot_s, wall_s FROM first_seen WHERE inbox = ?", (inbox,))
        return {sha256: Moment(boot, boot_s, wall_s) for sha256, boot, boot_s, wall_s in rows}

    def note_first_seen(self, inbox: str, new: Mapping[str, Moment], gone: Iterable[str]) -> None:
        """Keep when files were first seen, by the SHA-256 of their content; ``gone``: those that wait no longer."""
        with self._change() as base:
            base.executemany("DELETE FROM first_seen WHERE inbox = ? AND sha256 = ?", [(inbox, one) for one in gone])
            base.executemany(
                "INSERT INTO first_seen VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(inbox, sha256, at.boot, at.boot_s, at.wall_s) for sha256, at in new.items()],
            )

    # Handing over

    def handovers(self, job: str) -> list[Handover]:
        """What was sent of a job, by destination and file."""
        rows = self._base.execute(
            "SELECT job, destination, file, uid, sent, status, attempts, at_s FROM handovers WHERE job = ?"
            " ORDER BY destination, rowid",
            (job,),
        )
        return [Handover(a, b, c, d, bool(sent), e, f, g) for a, b, c, d, sent, e, f, g in rows]

    def note_handover(self, job: str, destination: str, file: str, uid: str, *, sent: bool, status: str) -> None:
        """Record how sending one file ended; the attempts are counted here."""
        self._update(
            "INSERT INTO handovers VALUES (?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (job, destination, file) DO UPDATE SET"
            " uid = excluded.uid, sent = excluded.sent, status = excluded.status, attempts = attempts + 1,"
            " at_s = excluded.at_s",
            (job, destination, file, uid, sent, status, self._clock()),
        )

    def set_handed_over(self, job: str) -> None:
        """Note that every file of a job's result that is to be sent was taken."""
        self._update("UPDATE jobs SET handed_over = 1 WHERE id = ?", (job,))

    def _update(self, statement: str, values: Sequence[object]) -> bool:
        with self._change() as base:
            return base.execute(statement, tuple(values)).rowcount > 0


def _is_orphan(job: Job, is_alive: Callable[[str], bool | None], now: float) -> bool:
    alive = None if job.owner is None else is_alive(job.owner)
    return job.owner is None or alive is False or (alive is None and job.lease_until_s < now)
