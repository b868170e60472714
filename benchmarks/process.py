"""Run each contestant in a process of its own.

Allocator settings, the number of threads and memory are properties of a process. So each contestant has its own
process, which stays alive, so that contestants can take turns.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEPT = "freed memory kept"  # the suffix of rows whose process uses `keep_freed_memory`


class Child(contextlib.AbstractContextManager):
    """A function that runs in another process.

        with Child(peers.tutorial_loop, directory, threads=2) as loop:
            masks = loop(paths, 8)
            seconds = loop.seconds(paths, 8)

    Args:
        factory: a function at the top of a module. It is called in the process, with `arguments`, and returns the
            function to run.
        threads: the number of threads of torch there.
        keep_memory: whether to call `keep_freed_memory` there.
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any, threads: int, keep_memory: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        self._name = factory.__name__
        self._process = context.Process(
            target=_serve, args=(other_end, factory, arguments, threads, keep_memory), daemon=True
        )
        self._process.start()  # does not wait, so that several start at once: see `wait`
        self._ready = False
        other_end.close()

    def wait(self) -> Child:
        """Wait until `factory` has returned."""
        if not self._ready:
            self._receive()
            self._ready = True
        return self

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, and return its result."""
        return self._ask(arguments, wants_result=True)[1]

    def seconds(self, *arguments: Any) -> float:
        """Call the function. Return the seconds that it took, measured in its process; drop the result."""
        return self._ask(arguments, wants_result=False)[0]

    def given(self, *options: Any) -> Given:
        """Return the same function with `options` as its last arguments."""
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
            raise RuntimeError(f"the process of {self._name} ended with exit code {self._process.exitcode}") from error
        if failure:
            raise RuntimeError(f"the process of {self._name} failed:\n{failure}")
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
    """Several children, which are closed together.

    with Children(threads=2) as children:
        loop = children.start(peers.tutorial_loop, directory)
        mine = children.start(ours.our_predictor, directory, "eager", keep_memory=True)
        children.wait()
    """

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._threads = threads
        self._children: list[Child] = []

    def start(self, factory: Callable[..., Any], *arguments: Any, keep_memory: bool = False) -> Child:
        """Start a child; see `Child`."""
        child = self.enter_context(Child(factory, *arguments, threads=self._threads, keep_memory=keep_memory))
        self._children.append(child)
        return child

    def wait(self) -> None:
        """Wait until all have loaded, so that none loads while another is measured."""
        for child in self._children:
            child.wait()


@dataclass(frozen=True)
class Given:
    """A child's function with its last arguments fixed; `Child.given` returns it."""

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

    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent closed the pipe
        seconds, function, failure = attempt(make)
        pipe.send((seconds, None, failure))
        while failure is None:
            arguments, wants_result = pipe.recv()
            seconds, result, failure = attempt(function, *arguments)
            pipe.send((seconds, result if wants_result else None, failure))
            del result
