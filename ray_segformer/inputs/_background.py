"""Calls in a daemon thread, which does not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


def in_background(call: Callable[..., _T], *arguments: Any) -> Future[_T]:
    """Call a function in a daemon thread, and return the future of its result.

    A store that does not answer may block the thread for minutes. Python does not wait for a daemon thread when the
    process ends. It does wait for the threads of `concurrent.futures.ThreadPoolExecutor`.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="listing").start()
    return future
