"""The job store: exactly once, leases, attempts, schema; and that it survives what kills processes."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dicomplan.errors import UsageError
from dicomplan.jobs import store_schema
from dicomplan.jobs.owner import is_alive, this_owner
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.store_place import check_place, default_store, file_system
from dicomplan.jobs.store_schema import SCHEMA_VERSION
from dicomplan.jobs.values import JobFile, NewJob, job_id, job_key

OUTBOX = "/out"


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def files(name: str = "a", count: int = 3) -> list[JobFile]:
    return [JobFile(f"1.2.{name}.{i}", f"{name}{i}", "CT", f"{name}{i}", 10) for i in range(count)]


def new(name: str = "a", **changes: object) -> NewJob:
    key = job_key(files(name), "t", "m", "1")
    values: dict[str, object] = {
        "id": job_id(key, OUTBOX, 0),
        "key": key,
        "generation": 0,
        "config": "c",
        "inbox": "/in",
        "outbox": OUTBOX,
        "template": "t",
        "version": "1",
        "received_s": 1000,
        "structure_set_uid": f"1.9.{name}",
        "series_uid": f"1.8.{name}",
    }
    return NewJob(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def store(tmp_path: Path, clock: Hands):
    with JobStore(tmp_path / "state" / "jobs.sqlite", clock=clock) as opened:
        yield opened


def test_the_key_is_of_inputs_in_any_order_template_machine_and_version() -> None:
    key = job_key(files(), "t", "m", "1")
    assert key == job_key(reversed(files()), "t", "m", "1")
    # a copy of an input, and what only moves along, change nothing
    assert key == job_key([*files(), files()[0], JobFile("1.5", "x", "RTDOSE", "x", 1, False)], "t", "m", "1")
    others = {
        job_key(files()[:2], "t", "m", "1"),
        job_key(files(), "T", "m", "1"),
        job_key(files(), "t", "M", "1"),
        job_key(files(), "t", "m", "2"),
        job_key([*files()[:2], JobFile(files()[2].uid, "other", "CT", "other", 10)], "t", "m", "1"),
    }
    assert key not in others
    assert len(others) == 5


def test_once_per_key(store: JobStore) -> None:
    assert store.add(new(), files())
    assert not store.add(new(), files())
    assert len(store.jobs()) == 1
    assert len(store.files(new().id)) == 3
    # the same study for another outbox is another job
    elsewhere = job_id(new().key, "/other", 0)
    assert store.add(new(id=elsewhere, outbox="/other"), files())


def test_states_from_receipt_to_done(store: JobStore, clock: Hands) -> None:
    store.add(new(), files())
    (job,) = store.claimable(OUTBOX)
    assert (job.state, job.output) == ("received", None)
    assert store.claim(job.id, "me", 60)
    assert not store.claim(job.id, "you", 60)
    assert store.claimable(OUTBOX) == []
    assert not store.end(job.id, "you", "done")
    clock.now += 5
    assert store.end(job.id, "me", "done", exit_code=5, plan_status="failed")
    job = store.job(job.id[:6])
    assert (job.state, job.plan_status, job.exit_code, job.attempts) == ("done", "failed", 5, 0)
    assert (job.started_s, job.ended_s, job.output) == (1000.0, 1005.0, f"{OUTBOX}/{job.id}")
    assert not store.cancel(job.id)
    assert not store.retry(job.id)


def test_three_deaths_of_the_worker_fail_a_job_and_a_retry_gives_all_attempts_back(
    store: JobStore, clock: Hands
) -> None:
    store.add(new(), files())
    id_ = new().id
    for state in ("waiting", "waiting", "failed"):
        assert store.claim(id_, "me", 60)
        assert store.died(id_, "me", "killed by signal 9", delay_s=30) == state
        assert not store.claimable(OUTBOX)  # backed off, or failed
        clock.now += 31
    assert store.job(id_).attempts == 3
    assert not store.claimable(OUTBOX)
    assert store.retry(id_)
    assert store.job(id_).attempts == 0
    assert [job.id for job in store.claimable(OUTBOX)] == [id_]


def test_the_death_of_a_service_costs_no_attempt(store: JobStore, clock: Hands) -> None:
    store.add(new(), files())
    id_ = new().id
    store.claim(id_, "gone:1:1", 60)
    living = {"gone:1:1": False, "me": True}.get
    (orphan,) = store.orphaned(living, OUTBOX)
    assert store.adopt(orphan, "me", 60)
    assert not store.adopt(orphan, "you", 60)
    assert store.orphaned(living, OUTBOX) == []
    assert store.hand_back(id_, "me")
    assert (store.job(id_).state, store.job(id_).attempts) == ("waiting", 0)


def test_a_lease_of_another_host_ends_by_time(store: JobStore, clock: Hands) -> None:
    store.add(new(), files())
    store.claim(new().id, "far:1:1", 60)
    assert store.orphaned(lambda _: None, OUTBOX) == []
    clock.now += 59
    store.renew("far:1:1", 60)
    clock.now += 59
    assert store.orphaned(lambda _: None, OUTBOX) == []
    clock.now += 2
    assert len(store.orphaned(lambda _: None, OUTBOX)) == 1


def test_cancelled_and_superseded_jobs_are_no_longer_held(store: JobStore) -> None:
    for name in "ab":
        store.add(new(name), files(name))
        store.claim(new(name).id, "me", 60)
    assert store.renew("me", 60) == {new("a").id, new("b").id}
    store.cancel(new("a").id)
    store.add(new("c", follows=new("b").id), files("c"), supersedes=[new("b").id])
    assert store.renew("me", 60) == set()
    assert store.job(new("b").id).superseded_by == new("c").id
    assert not store.end(new("b").id, "me", "done")  # a worker that ends late ends nothing


def test_files_lead_to_their_jobs(store: JobStore) -> None:
    store.add(new("a"), files("a"))
    store.add(new("b"), [*files("b"), files("a")[0]])
    assert [job.id for job in store.of_file("a0", OUTBOX)] == [new("a").id, new("b").id]
    assert [job.id for job in store.of_objects(["1.2.b.1", "1.2.b.2"], OUTBOX)] == [new("b").id]
    assert [job.id for job in store.of_series("1.8.a", OUTBOX)] == [new("a").id]
    assert store.of_file("a0", "/other") == []


def test_mode_and_durability(store: JobStore, tmp_path: Path) -> None:
    store.add(new(), files())
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    base = store._base
    assert base.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert base.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_an_older_schema_is_migrated_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    base = sqlite3.connect(path)
    base.executescript(store_schema._MIGRATIONS[0])
    base.execute(f"PRAGMA application_id = {store_schema._APPLICATION_ID}")
    base.execute("PRAGMA user_version = 1")
    row = (*["x"] * 8, 1000, *["x"] * 2, 0, 0)
    base.execute(
        "INSERT INTO jobs (id, key, generation, config, inbox, outbox, template, version, received_s,"
        " structure_set_uid, series_uid, memory_bytes, disk_bytes, state) VALUES (?,?,0,?,?,?,?,?,?,?,?,?,?, 'done')",
        (*row[:2], *row[3:8], *row[8:]),
    )
    base.commit()
    base.close()
    with JobStore(path) as store:
        assert [job.id for job in store.jobs()] == ["x"]
        assert store.jobs()[0].handed_over is False
        store.note_handover("x", "A@h:1", "RTPLAN.dcm", "1.2", sent=True, status="0000")
        assert store._base.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        store._base.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(UsageError, match="this release knows up to"):
        JobStore(path)


def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    text = tmp_path / "notes"
    text.write_text("no database, but long enough to be looked at as one" * 50)
    with pytest.raises(UsageError, match="no job store"):
        JobStore(text)
    foreign = tmp_path / "foreign.sqlite"
    base = sqlite3.connect(foreign)
    base.execute("CREATE TABLE theirs (x)")
    base.close()
    with pytest.raises(UsageError, match="another program"):
        JobStore(foreign)
    with pytest.raises(UsageError, match="no job store"):
        JobStore(tmp_path / "absent", must_exist=True)
    assert not (tmp_path / "absent").exists()


MOUNTS = """22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:35 / /mnt/share rw - nfs4 server:/x rw
41 22 0:36 / /mnt/win\\040dows rw - cifs //server/y rw
42 22 0:37 / /home/me/remote rw - fuse.sshfs me@host: rw
43 40 0:38 / /mnt/share/local rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/var/lib/jobs", "ext4"),
        ("/mnt/share/x/jobs", "nfs4"),
        ("/mnt/shared/jobs", "ext4"),
        ("/mnt/win dows/jobs", "cifs"),
        ("/home/me/remote/jobs", "fuse.sshfs"),
        ("/mnt/share/local/jobs", "xfs"),
    ],
)
def test_network_file_systems_are_refused(place: str, kind: str) -> None:
    assert file_system(Path(place), MOUNTS) == kind
    if kind in ("ext4", "xfs"):
        check_place(Path(place), MOUNTS)
        return
    with pytest.raises(UsageError, match=f"type {kind}: locks"):
        check_place(Path(place), MOUNTS)


def test_the_default_store_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_store() == Path("/srv/state/dicomplan/jobs.sqlite")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_store() == Path("/home/me/.local/state/dicomplan/jobs.sqlite")


def test_owners_live_and_die() -> None:
    assert is_alive(this_owner()) is True
    assert is_alive("elsewhere:1:1") is None
    host, pid, start = this_owner().rsplit(":", 2)
    assert is_alive(f"{host}:{pid}:{int(start) - 1}") is False  # a number used again
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    assert is_alive(f"{host}:{child.pid}:{ticks}") is True
    child.communicate(b"\n")
    assert is_alive(f"{host}:{child.pid}:{ticks}") is False


def test_two_watchers_never_take_the_same_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    names = [f"n{i}" for i in range(40)]
    with JobStore(path) as store:
        for name in names:
            store.add(new(name), files(name))
    taken: dict[str, list[str]] = {"one": [], "two": [], "three": []}

    def take(owner: str) -> None:
        with JobStore(path) as store:
            while jobs := store.claimable(OUTBOX):
                taken[owner] += [job.id for job in jobs[:3] if store.claim(job.id, owner, 60)]

    threads = [threading.Thread(target=take, args=(owner,)) for owner in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = sorted(id_ for ids in taken.values() for id_ in ids)
    assert everything == sorted(new(name).id for name in names)


def test_what_was_stored_survives_sigkill(tmp_path: Path) -> None:
    """A child stores jobs and says which; it is killed while it does: every one it named is there, and whole."""
    path = tmp_path / "jobs.sqlite"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_jobs_store import *\n"
        "store = JobStore(Path(sys.argv[1]))\n"
        "for i in range(100000):\n"
        "    store.add(new(f'k{i}'), files(f'k{i}', 20)); print(new(f'k{i}').id, flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = [child.stdout.readline().strip() for _ in range(30)]
    child.kill()
    said += child.stdout.read().split()
    child.wait()
    with JobStore(path) as store:
        there = store.jobs()
        assert {id_ for id_ in said if len(id_) == 16} <= {job.id for job in there}
        assert all(len(store.files(job.id)) == 20 for job in there)
