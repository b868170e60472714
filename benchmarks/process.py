"""Contestants in processes of their own.

The C library's settings, the number of threads and the memory in use hold for a whole process. So each contestant gets
one, which stays, so that contestants can take turns.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEPT = "freed memory kept"  # what rows are called whose process does


class Child(contextlib.AbstractContextManager):
    """A function in a process of its own.

        with Child(peers.tutorial_loop, directory, threads=2) as loop:
            masks = loop(paths, 8)
            seconds = loop.seconds(paths, 8)

    Args:
        factory: a function of a module; called in the process, with `arguments`, it returns the function.
        threads: what torch is told to use there.
        keep_memory: whether the process keeps the memory that it frees (`keep_freed_memory`).
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any, threads: int, keep_memory: bool = False):
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        self._name = factory.__name__
        self._process = context.Process(
            target=_serve, args=(other_end, factory, arguments, threads, keep_memory), daemon=True
        )
        self._process.start()  # and several can start at once: see `wait`
        self._ready = False
        other_end.close()

    def wait(self) -> Child:
        """Wait until the function is there."""
        if not self._ready:
            self._receive()
            self._ready = True
        return self

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self._ask(arguments, wants_result=True)[1]

    def seconds(self, *arguments: Any) -> float:
        """How long the function takes, by the process's own clock; the result stays there."""
        return self._ask(arguments, wants_result=False)[0]

    def given(self, *options: Any) -> Given:
        """The same function with `options` behind its other arguments."""
        return Given(self, options)

    def _ask(self, arguments: tuple[Any, ...], wants_result: bool) -> tuple[float, Any]:
        self.wait()
        self._pipe.send((arguments, wants_result))
        return self._receive()

    def _receive(self) -> tuple[float, Any]:
        try:
            seconds, result, failure = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(f"the process of {self._name} ended, with {self._process.exitcode}") from error
        if failure:
            raise RuntimeError(f"in the process of {self._name}:\n{failure}")
        return seconds, result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()

    def __exit__(self, *_: object) -> None:
        self.close()


class Children(contextlib.ExitStack):
    """Children that end together.

    with Children(threads=2) as children:
        loop = children.start(peers.tutorial_loop, directory)
        mine = children.start(ours.our_predictor, directory, "eager", keep_memory=True)
        children.wait()
    """

    def __init__(self, threads: int):
        super().__init__()
        self._threads = threads
        self._children: list[Child] = []

    def start(self, factory: Callable[..., Any], *arguments: Any, keep_memory: bool = False) -> Child:
        """Start one; see `Child`."""
        child = self.enter_context(Child(factory, *arguments, threads=self._threads, keep_memory=keep_memory))
        self._children.append(child)
        return child

    def wait(self) -> None:
        """Wait until all have loaded what they run, so that they do not while another is measured."""
        for child in self._children:
            child.wait()


@dataclass(frozen=True)
class Given:
    """A child's function with some arguments given, as `Child.given` makes it."""

    child: Child
    options: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> Any:
        """See `Child`."""
        return self.child(*arguments, *self.options)

    def seconds(self, *arguments: Any) -> float:
        """See `Child`."""
        return self.child.seconds(*arguments, *self.options)


def _serve(pipe: Any, factory: Callable[..., Any], arguments: Any, threads: int, keep_memory: bool) -> None:
    def make() -> Any:
        import torch

        if keep_memory:
            from ray_segformer.network import keep_freed_memory

            keep_freed_memory()
        torch.set_num_threads(threads)
        return factory(*arguments)

    def attempt(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any, str | None]:
        started = time.perf_counter()
        try:
            result, failure = function(*arguments), None
        except Exception:
            result, failure = None, traceback.format_exc()
        return time.perf_counter() - started, result, failure

    with contextlib.suppress(EOFError, BrokenPipeError):  # the other end was closed
        seconds, function, failure = attempt(make)
        pipe.send((seconds, None, failure))
        while failure is None:
            arguments, wants_result = pipe.recv()
            seconds, result, failure = attempt(function, *arguments)
            pipe.send((seconds, result if wants_result else None, failure))
            del result
