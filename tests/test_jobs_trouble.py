"""Troubles of the folder service: health shows each turn, the log tells an episode."""

from __future__ import annotations

import errno
import io
import json
import sqlite3

import pytest

from dicomplan.jobs.service_log import ServiceLog
from dicomplan.jobs.trouble import PAUSE_S, UNLISTED, WELL_AFTER_S, Troubles


class Bench:
    """Troubles with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.current: dict[str, str] = {}
        self._text = io.StringIO()
        self.troubles = Troubles(self.current, ServiceLog(self._text), lambda: self.now_s)

    def events(self) -> list[dict[str, object]]:
        """What was logged, without times."""
        lines = [json.loads(line) for line in self._text.getvalue().splitlines()]
        return [{key: one[key] for key in one if key != "time"} for one in lines]

    def wait(self, seconds: float) -> None:
        """Let time pass; the service settles in each of its steps."""
        for _ in range(10):
            self.now_s += seconds / 10
            self.troubles.settle()


def test_a_share_that_flaps_is_told_once_and_shown_each_time() -> None:
    bench = Bench()
    for _ in range(50):
        bench.troubles.note("inbox", "the inbox is not there")
        assert bench.current == {"inbox": "the inbox is not there"}
        assert not bench.troubles.may_take
        bench.wait(5.0)
        bench.troubles.note("inbox", "another file system lies in its place")
        bench.wait(5.0)
        bench.troubles.clear("inbox")
        assert bench.current == {}
        assert bench.troubles.may_take
        bench.wait(5.0)
    assert [one["reason"] for one in bench.events()] == [
        "the inbox is not there",
        "another file system lies in its place",
    ]
    bench.wait(WELL_AFTER_S)
    last = bench.events()[-1]
    assert (last["event"], last["subject"], last["times"]) == ("well_again", "inbox", 50)
    assert last["lasted_s"] == 50 * 15 - 5
    # the next one is another episode
    bench.wait(1000.0)
    bench.troubles.note("inbox", "the inbox is not there")
    assert len(bench.events()) == 4


def test_trouble_that_lasts_is_told_again_each_hour() -> None:
    bench = Bench()
    for _ in range(3 * 720):
        bench.troubles.note("disk", "disk full")
        bench.wait(5.0)
    told = bench.events()
    assert [one["event"] for one in told] == ["trouble"] * 4
    assert {one["reason"] for one in told} == {"disk full"}


def test_subjects_do_not_mix_and_being_well_says_nothing() -> None:
    bench = Bench()
    bench.troubles.clear("disk")
    bench.wait(2 * WELL_AFTER_S)
    assert bench.events() == []
    bench.troubles.note(UNLISTED, "folders that cannot be listed: 1")
    assert bench.troubles.may_take
    assert bench.troubles.may_start
    bench.troubles.note("inbox", "gone")
    assert not bench.troubles.may_take
    assert bench.troubles.may_start  # jobs run on private copies
    bench.troubles.note("disk", "full")
    assert not bench.troubles.may_start


@pytest.mark.parametrize(
    ("error", "subject"),
    [
        (OSError(28, "No space left on device"), "disk"),
        (OSError(30, "Read-only file system"), "place"),
        (OSError(errno.EHOSTDOWN, "Host is down"), "place"),
        (sqlite3.OperationalError("database or disk is full"), "disk"),
        (sqlite3.OperationalError("database is locked"), "store"),
    ],
)
def test_a_step_that_fails_pauses_and_is_told(error: Exception, subject: str) -> None:
    bench = Bench()
    with bench.troubles.watching("store"):
        raise error
    assert list(bench.current) == [subject]
    assert bench.troubles.is_paused
    bench.wait(PAUSE_S)
    assert not bench.troubles.is_paused
    with pytest.raises(ZeroDivisionError), bench.troubles.watching("store"):
        raise ZeroDivisionError
