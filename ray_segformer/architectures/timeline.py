"""Who did what when: events noted in the workers, and the timeline of a run made of them."""

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
    """One thing that one worker did.

    Attributes:
        kind: "load" (of the model), "preprocess" or "predict" (a batch).
        node: the hexadecimal id of the worker's Ray node; empty outside of Ray.
        process: the worker's process id.
        start: seconds since the epoch. The processes of a node share this clock, and nodes share it as far as NTP keeps
            them together, usually to milliseconds.
        seconds: how long it took, by a clock that is never set.
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
        """The node and the process, which together name a worker."""
        return self.node, self.process

    @property
    def end(self) -> float:
        """When it was done, in seconds since the epoch."""
        return self.start + self.seconds


class Recorder:
    """Notes the events of one worker until the worker hands them over with its next result."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        self._events: list[Event] = []

    @contextmanager
    def note(self, kind: Kind, images: Sequence[int] = ()) -> Iterator[None]:
        """Note what the body of the `with` does, once it is done; nothing, where it raises."""
        start, counter = time.time(), time.perf_counter()
        yield
        seconds = time.perf_counter() - counter
        positions = tuple(int(image) for image in images)
        self._events.append(Event(kind, self._node, os.getpid(), start, seconds, positions))

    def take(self) -> str:
        """The events since the last call, as JSON: text travels in the columns of every Ray."""
        events, self._events = self._events, []
        return json.dumps([asdict(event) for event in events])


@dataclass(frozen=True)
class Timeline:
    """All events of a run.

    Attributes:
        events: in the order of their start.
        start, end: of the run, on the driver: from the call to the last mask's arrival. Seconds since the epoch.
    """

    events: tuple[Event, ...]
    start: float
    end: float

    @classmethod
    def of(cls, notes: Sequence[str], start: float, end: float) -> Timeline:
        """From what `Recorder.take` returned; `notes` may hold empty texts and be in any order."""
        events = [_event(fields) for note in notes if note for fields in json.loads(note)]
        return cls(tuple(sorted(events, key=lambda event: event.start)), start, end)

    @property
    def seconds(self) -> float:
        """How long the run took."""
        return self.end - self.start

    @property
    def workers(self) -> list[tuple[str, int]]:
        """The workers, as (node, process), in the order of their first event."""
        return list(dict.fromkeys(event.worker for event in self.events))

    @property
    def loads(self) -> int:
        """How often a model was loaded."""
        return sum(event.kind == "load" for event in self.events)

    @property
    def load_seconds(self) -> float:
        """What the loads took together, importing torch included."""
        return sum(event.seconds for event in self.events if event.kind == "load")

    @property
    def seconds_to_first_mask(self) -> float:
        """From the start of the run until a worker had predicted its first batch."""
        return min(event.end for event in self.events if event.kind == "predict") - self.start

    @property
    def busy_share(self) -> float:
        """The part of the workers' time, from start to end, in which they preprocessed or predicted."""
        busy = sum(event.seconds for event in self.events if event.kind != "load")
        return busy / (len(self.workers) * self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"start": self.start, "end": self.end, "events": [asdict(event) for event in self.events]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Timeline:
        """What `to_dict` made, also after a trip through JSON."""
        return cls(tuple(map(_event, fields["events"])), fields["start"], fields["end"])


def _event(fields: dict[str, Any]) -> Event:
    return Event(**{**fields, "images": tuple(fields["images"])})
