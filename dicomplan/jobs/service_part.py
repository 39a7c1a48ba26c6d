"""What the parts of a service share: settings, store, log, gauges, what is in the way, and who the service is."""

from __future__ import annotations

from dataclasses import dataclass

from dicomplan.jobs.health import Gauges
from dicomplan.jobs.places import Places
from dicomplan.jobs.service_log import ServiceLog
from dicomplan.jobs.settings import Settings
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.trouble import Troubles


@dataclass(frozen=True)
class Shared:
    """``owner``: the service's process, as it stands in the leases of the jobs that it runs."""

    settings: Settings
    store: JobStore
    log: ServiceLog
    gauges: Gauges
    troubles: Troubles
    places: Places
    owner: str


class ServicePart:
    """A part of a service, which looks at the store again when :attr:`_stamp` is not the store's any more."""

    def __init__(self, shared: Shared) -> None:
        self._settings = shared.settings
        self._store = shared.store
        self._log = shared.log
        self._gauges = shared.gauges
        self._troubles = shared.troubles
        self._places = shared.places
        self._owner = shared.owner
        self._outbox = str(shared.settings.outbox)
        self._stamp: tuple[int, int] | None = None
