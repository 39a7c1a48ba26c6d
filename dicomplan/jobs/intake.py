"""From the inbox to the job store: what is to become of the objects that lie there, and how a study becomes a job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from dicomplan import __version__
from dicomplan.jobs import estimates
from dicomplan.jobs.accepting import ChangedError, copy_input
from dicomplan.jobs.contents import Content
from dicomplan.jobs.durable import remove
from dicomplan.jobs.first_seen import elapsed_s
from dicomplan.jobs.inbox import Inbox
from dicomplan.jobs.readiness import Present, Ready, Refused, decide
from dicomplan.jobs.rules import Rule
from dicomplan.jobs.service_part import ServicePart, Shared
from dicomplan.jobs.values import ACTIVE, Job, JobFile, NewJob, job_id, job_key


class Intake(ServicePart):
    """Makes jobs, and refusals, of what lies in an inbox. ``known``: hashes of files that are inputs of jobs already."""

    def __init__(self, shared: Shared, inbox: Inbox) -> None:
        super().__init__(shared)
        self._inbox = inbox
        self.known: set[str] = set()
        now, now_s = self._settings.moment(), time.monotonic()
        inbox.first_seen_s = {
            sha256: now_s - elapsed_s(then, now)
            for sha256, then in self._store.first_seen(str(self._settings.inbox)).items()
        }

    def _refresh(self) -> None:
        stamp = self._store.stamp()
        if stamp != self._stamp:
            self.known = self._store.containers(self._outbox, self._settings.rules.config, self._settings.replan)
            self._stamp = stamp

    def decide(self, now_s: float) -> None:
        """Make jobs of the studies that are ready at a monotonic time, refuse what never will be."""
        self._refresh()
        # most of the time nothing is new, and ten thousand files may be kept
        new = any(one.contents and one.sha256 not in self.known for one in self._inbox.index.values())
        objects = self._inbox.present(self.known) if new else []
        fresh = [one for one in objects if one.fresh]
        self._gauges.waiting_files = (
            len({one.path for one in fresh}) + len(self._inbox.watched.seen) - len(self._inbox.index)
        )
        if fresh:
            objects = self._with_recalled(objects, fresh)
            decisions = decide(
                objects,
                now_s,
                self._settings.waits,
                choose=self._settings.rules.choose(),
                busy_folders=self._inbox.busy_folders(),
            )
            for one in decisions:
                if isinstance(one, Refused):
                    self._refuse(one.objects, one.reason)
                elif isinstance(one, Ready) and self._troubles.may_take:
                    self._accept(one)
        else:
            self._inbox.forget_recalled()
        for _, item in self._inbox.unreadable(now_s, self._settings.waits.give_up_s):
            if item.sha256 not in self.known:
                file = JobFile("", item.sha256, "unreadable", item.sha256, item.state.size)
                self._add_refused([file], f"unreadable: {item.error}", "", "")
        self._refresh()
        self._note_first_seen(now_s)

    def _note_first_seen(self, now_s: float) -> None:
        """Keep since when files wait, so that waits go on when the service starts again."""
        inbox = self._inbox
        waiting = {one.sha256: name for name, one in inbox.index.items() if one.sha256 not in self.known}
        new = {sha256: name for sha256, name in waiting.items() if sha256 not in inbox.first_seen_s}
        # what has not been read yet may be what an earlier process saw
        gone = [
            sha256
            for sha256 in inbox.first_seen_s
            if sha256 not in waiting and (inbox.is_read() or sha256 in self.known)
        ]
        if not new and not gone:
            return
        now = self._settings.moment()
        since_s = {sha256: inbox.since_s(name) for sha256, name in new.items()}
        moments = {sha256: now.before(now_s - since) for sha256, since in since_s.items()}
        self._store.note_first_seen(str(self._settings.inbox), moments, gone)
        inbox.first_seen_s.update(since_s)
        for sha256 in gone:
            del inbox.first_seen_s[sha256]

    def _with_recalled(self, objects: list[Present], fresh: Sequence[Present]) -> list[Present]:
        """With the input of earlier jobs that a new structure set or a late slice belongs to."""
        jobs: dict[str, Job] = {}
        for series in {one.content.series_uid for one in fresh if one.content.kind == "CT"}:
            for job in self._store.of_series(series, self._outbox):
                if job.structure_set_uid:
                    jobs[job.id] = job
        for one in fresh:
            refers = one.content.structures
            if refers is not None:
                found = self._store.of_objects(sorted(refers.images), self._outbox)
                found += [job for uid in refers.series for job in self._store.of_series(uid, self._outbox)]
                jobs.update({job.id: job for job in found})
        there = {(one.content.uid, one.content.sha256) for one in objects}
        extra: dict[tuple[str, str], Present] = {}
        for job in jobs.values():
            if job.is_final:
                for one in self._inbox.recall(job.id):
                    extra.setdefault((one.content.uid, one.content.sha256), one)
        return objects + [one for key, one in extra.items() if key not in there]

    # Accepting

    def _files(self, planned: Sequence[Present], others: Sequence[Present] = ()) -> list[JobFile]:
        return [
            JobFile(one.content.uid, one.content.sha256, one.content.kind, one.container_sha256, one.content.size, on)
            for group, on in ((planned, True), (others, False))
            for one in group
        ]

    def _accept(self, ready: Ready) -> None:
        settings = self._settings
        contents = [one.content for one in ready.slices]
        rule = settings.rules.match(ready.structure_set.content, contents)
        if rule is None:
            fresh = [one for one in (ready.structure_set, *ready.slices, *ready.others) if one.fresh]
            self._refuse(fresh, "no rule fits this study")
            return
        planned = (ready.structure_set, *ready.slices)
        files = self._files(planned, ready.others)
        recipe = rule.recipe
        key = job_key(files, recipe.template_sha256, recipe.machine_sha256, __version__)
        generation = 0
        same = self._store.find(key, self._outbox)
        if same is not None:
            if not (settings.replan and same.is_final and same.moved and ready.structure_set.fresh):
                self._take_along(same, files)
                return
            generation = same.generation + 1
        here = {(item.uid, item.sha256) for item in files if item.planned_on}
        outdated, covered = self._earlier(ready.structure_set, here)
        if covered and generation == 0:
            return  # a part of what a job has: the rest is being moved
        new = self._new_job(key, generation, rule, ready, contents)
        if outdated:
            new = replace(new, follows=outdated[-1].id)
        if not self._places.have_room(new.disk_bytes):
            return
        try:
            copied = copy_input(
                settings.work, new.id, self._owner, settings.inbox, planned, recipe.files, new.received_s
            )
        except ChangedError:
            for one in planned:
                self._inbox.index.pop(one.path, None)
            self._inbox.forget_recalled()
            return
        active = [job.id for job in outdated if job.state in ACTIVE]
        try:
            if not self._store.add(new, files, active, copied.put_in_place):
                return  # another watcher was quicker
        finally:
            remove(copied.partial)
        self._log.write(
            "info", "accepted", job=new.id, template=rule.recipe.name, images=len(ready.slices), follows=new.follows
        )
        for job in active:
            self._log.write("info", "superseded", job=job, by=new.id)

    def _earlier(self, structure_set: Present, here: set[tuple[str, str]]) -> tuple[list[Job], bool]:
        """Earlier jobs on a structure set that its present input makes out of date, oldest first, and whether one has it all.

        ``here``: UID and SHA-256 of each input. Under the present configuration a job is out of date that has no more
        than that; under an earlier one (a template was changed since) only one that lacks some of it: the same input by
        another template is a plan of its own.
        """
        outdated, covered = [], False
        for job in self._store.of_structures(structure_set.content.uid, self._outbox):
            if job.state == "cancelled":
                continue
            earlier = {(item.uid, item.sha256) for item in self._store.files(job.id) if item.planned_on}
            same_config = job.config == self._settings.rules.config
            if earlier < here or (same_config and earlier == here):
                outdated.append(job)
            # what was refused for what was missing is no plan that the input could be a part of
            planned = job.state != "refused" or job.exit_code is not None
            covered = covered or (same_config and planned and here <= earlier)
        return outdated, covered

    def _new_job(self, key: str, generation: int, rule: Rule, ready: Ready, contents: Sequence[Content]) -> NewJob:
        settings = self._settings
        template = rule.recipe.template
        everything = [*contents, ready.structure_set.content]
        return NewJob(
            id=job_id(key, self._outbox, generation),
            key=key,
            generation=generation,
            config=settings.rules.config,
            inbox=str(settings.inbox),
            outbox=self._outbox,
            template=rule.recipe.name,
            version=__version__,
            received_s=settings.receipt(),
            structure_set_uid=ready.structure_set.content.uid,
            series_uid=contents[0].series_uid,
            memory_bytes=estimates.memory_bytes(contents, template),
            disk_bytes=estimates.disk_bytes(everything, template),
        )

    def _take_along(self, job: Job, files: Sequence[JobFile]) -> None:
        """Files that came later and belong to a job that is there move with it (a copy, an image nobody plans on)."""
        there = {item.container_sha256 for item in self._store.files(job.id)}
        more = [item for item in files if item.container_sha256 not in there]
        config = self._settings.rules.config
        if more or job.moved or job.config != config:
            self._store.add_files(job.id, more, config)

    def _refuse(self, objects: Sequence[Present], reason: str) -> None:
        fresh = [one for one in objects if one.fresh]
        if not fresh:
            return
        sets = [one.content for one in objects if one.content.kind == "RTSTRUCT"]
        series = sorted({one.content.series_uid for one in objects if one.content.kind == "CT"})
        if len(sets) == 1 and sets[0].structures is not None and not series:
            series = sorted(sets[0].structures.series)
        uid = sets[0].uid if len(sets) == 1 else ""
        self._add_refused(self._files(fresh), reason, uid, series[0] if series else "")

    def _add_refused(self, files: Sequence[JobFile], reason: str, structure_set_uid: str, series_uid: str) -> None:
        settings = self._settings
        key = job_key(files, "refused", settings.rules.config, reason)
        same = self._store.find(key, self._outbox)
        if same is not None:
            self._take_along(same, ())
            return
        new = NewJob(
            id=job_id(key, self._outbox, 0),
            key=key,
            generation=0,
            config=settings.rules.config,
            inbox=str(settings.inbox),
            outbox=self._outbox,
            template="",
            version=__version__,
            received_s=settings.receipt(),
            structure_set_uid=structure_set_uid,
            series_uid=series_uid,
            state="refused",
            error=reason,
        )
        if self._store.add(new, files):
            self._log.write("warning", "refused", job=new.id, reason=reason)
