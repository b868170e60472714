"""Work beside what else a process does, which does not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


def in_background(call: Callable[..., _T], *arguments: Any) -> Future[_T]:
    """Call a function in a thread of its own, and return the future of its result.

    Nobody waits for the thread when the process ends: a store that does not answer may hold it for minutes. For those
    of `concurrent.futures.ThreadPoolExecutor`, Python waits.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="listing").start()
    return future
