"""The events that the workers record, and the timeline of a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import ray

Kind = Literal["load", "preprocess", "predict"]


@dataclass(frozen=True)
class Event:
    """One piece of work of one worker.

    Attributes:
        kind: "load" (of the model), "preprocess" or "predict" (a batch).
        node: the hexadecimal id of the worker's Ray node; empty without Ray.
        process: the worker's process id.
        start: seconds since the epoch. All processes of a node use the same clock. The clocks of different nodes differ
            a little, usually by milliseconds with NTP.
        seconds: the duration, measured by a monotonic clock.
        images: the positions of the batch's images in the input; empty for "load".
    """

    kind: Kind
    node: str
    process: int
    start: float
    seconds: float
    images: tuple[int, ...] = ()

    @property
    def worker(self) -> tuple[str, int]:
        """The node and the process id, which together identify a worker."""
        return self.node, self.process

    @property
    def end(self) -> float:
        """When the work ended, in seconds since the epoch."""
        return self.start + self.seconds


class Recorder:
    """Records the events of one worker, which sends them with its next result."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        self._events: list[Event] = []

    @contextmanager
    def note(self, kind: Kind, images: Sequence[int] = ()) -> Iterator[None]:
        """Record the body of the `with` as an event. Record nothing if the body raises."""
        start, counter = time.time(), time.perf_counter()
        yield
        seconds = time.perf_counter() - counter
        positions = tuple(int(image) for image in images)
        self._events.append(Event(kind, self._node, os.getpid(), start, seconds, positions))

    def take(self) -> str:
        """Return the events since the last call as JSON text, a column type that every version of Ray supports."""
        events, self._events = self._events, []
        return json.dumps([asdict(event) for event in events])


@dataclass(frozen=True)
class Timeline:
    """All events of a run.

    Attributes:
        events: the events, in the order of their start.
        start: when the architecture was called on the driver, in seconds since the epoch.
        end: when the last mask arrived on the driver, in seconds since the epoch.
    """

    events: tuple[Event, ...]
    start: float
    end: float

    @classmethod
    def of(cls, notes: Sequence[str], start: float, end: float) -> Timeline:
        """Make a timeline of texts from `Recorder.take`, in any order. Empty texts are skipped."""
        events = [_event(fields) for note in notes if note for fields in json.loads(note)]
        return cls(tuple(sorted(events, key=lambda event: event.start)), start, end)

    @property
    def seconds(self) -> float:
        """The duration of the run."""
        return self.end - self.start

    @property
    def workers(self) -> list[tuple[str, int]]:
        """The workers as (node, process id), in the order of their first event."""
        return list(dict.fromkeys(event.worker for event in self.events))

    @property
    def loads(self) -> int:
        """The number of times that a model was loaded."""
        return sum(event.kind == "load" for event in self.events)

    @property
    def load_seconds(self) -> float:
        """The sum of the seconds of all loads. A load includes the first import of torch in its process."""
        return sum(event.seconds for event in self.events if event.kind == "load")

    @property
    def seconds_to_first_mask(self) -> float:
        """The seconds from the start of the run until a worker had predicted the first batch."""
        return min(event.end for event in self.events if event.kind == "predict") - self.start

    @property
    def busy_share(self) -> float:
        """The share of the workers' time, from start to end of the run, that they preprocessed or predicted."""
        busy = sum(event.seconds for event in self.events if event.kind != "load")
        return busy / (len(self.workers) * self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Convert the timeline to a dict for JSON."""
        return {"start": self.start, "end": self.end, "events": [asdict(event) for event in self.events]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Timeline:
        """Make a timeline of a dict from `to_dict`, which may have been saved as JSON."""
        return cls(tuple(map(_event, fields["events"])), fields["start"], fields["end"])


def _event(fields: dict[str, Any]) -> Event:
    return Event(**{**fields, "images": tuple(fields["images"])})
