"""Jobs in processes of their own, which stop at a certain moment: just before a certain change on disk.

Python reports each change on disk to audit hooks before it happens, so nothing of the job needs to be replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

# Processes are forked from one that has imported everything, and that runs no thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["drivers", "sessions", "ray.data", "ray_segformer.cli", "ray_segformer.predict"])
MINUTES = 20 * 60  # no process takes so long, unless it hangs

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def findings_of(function: Any, *arguments: Any) -> Any:
    """Return what a function of an importable module returns in a process of its own."""
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_send, args=(there, function, arguments))
    process.start()
    there.close()
    assert here.poll(MINUTES), "the process hangs"
    findings = here.recv()  # EOFError: it failed, and its traceback is on stderr
    process.join(MINUTES)
    return findings


def _send(connection: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    connection.send(function(*arguments))


def gated_job(
    connection: Any, address: str, authentication: str | None, folder: str, first: list[str], arguments: dict[str, Any]
) -> None:
    """Call `predict`, whose workers wait at `Gate(folder)` for all but the `first` images.

    Args:
        connection: gets "ended" at the end.
        address: of the Ray to join; "local" for a Ray of its own.
        authentication: the mode of that Ray, which Ray sets in the environment of the process that starts it.
        folder, first: as for `gated`.
        arguments: of `predict`.
    """
    from dying import gated

    from ray_segformer.predict import predict

    _join(address, authentication)
    predict(checkpoint=gated(folder, first), progress=False, **arguments)
    connection.send("ended")


def command(connection: Any, address: str, authentication: str | None, target: str, arguments: list[str]) -> None:
    """Run `ray-segformer` with `arguments`, and stop for ever just before a file or folder is renamed to `target`.

    The folder of the input is not listed before Ray runs: a job starts Ray while a listing takes long.

    Args:
        connection: gets the text "stopped" then; or the exit code, if it never comes to that.
        address, authentication: as for `gated_job`.
    """
    import ray
    from dying import wait_until

    from ray_segformer.cli import main

    def stop(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.scandir" and values[0] == arguments[1]:
            wait_until(ray.is_initialized)
        if event == "os.rename" and values[1] == target:
            connection.send("stopped")
            signal.pause()

    _join(address, authentication)
    sys.addaudithook(stop)
    connection.send(main(arguments))


def _join(address: str, authentication: str | None) -> None:
    import ray
    from ray._raylet import Config

    os.environ["RAY_ADDRESS"] = address
    if authentication is not None:
        os.environ["RAY_AUTH_MODE"] = authentication
        Config.initialize("")  # it has read the environment before
    if address == "local":
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)


def started(function: Any, address: str, *arguments: Any) -> tuple[Any, Any]:
    """Return a process that runs `gated_job` or `command`, and the other end of its connection."""
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=function, args=(there, address, os.environ.get("RAY_AUTH_MODE"), *arguments))
    process.start()
    there.close()
    return process, here


def stopped(address: str, target: Any, *arguments: Any) -> Any:
    """Return a process that runs the command, and stands just before something is renamed to `target`."""
    process, connection = started(command, address, str(target), [*map(str, arguments)])
    assert connection.poll(MINUTES), "the command hangs"
    assert connection.recv() == "stopped"
    return process


# Five rows of masks, as `EncodeMasks` makes them.
ROWS = [
    {"path": f"/{number}", "index": number, "name": str(number), "key": str(number), "height": 1, "width": 1}
    | {
        "segmentation": bytes([number]) * 100,
        "class_ids": [number],
        "class_pixels": [1],
        "overlay": None,
        "error": None,
    }
    for number in range(5)
]


def write_rows(output: Any, rows: list[dict[str, Any]]) -> None:
    """Write those of the rows that are not done to an output, two to a shard, as a job and its tasks do."""
    import pyarrow as pa

    from ray_segformer.outputs import OutputFolder, Shards, WriteShards

    with OutputFolder(str(output), resume=True, options={"model": "a"}) as folder:
        if folder.finished is not None:
            return
        shards, write = Shards(folder.storage, "parquet"), WriteShards(folder.storage, "parquet")
        done = shards.find() if folder.resumes else None
        folder.begin()
        is_done = [False] * len(rows) if done is None else done.among(row["key"] for row in rows)
        left = [row for row, is_in_shard in zip(rows, is_done, strict=True) if not is_in_shard]
        for first in range(0, len(left), 2):
            for written in write(pa.Table.from_pylist(left[first : first + 2])).to_pylist():
                shards.add(json.loads(written["shard"]))
        shards.settle()
        folder.finish({"images": shards.rows}, {0: "other"})


def write_rows_or_exit(output: Any, rows: list[dict[str, Any]]) -> None:
    """Call `write_rows`, and exit at SIGTERM, as Ray's workers do: by an exception in the main thread."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    write_rows(output, rows)


def hold(connection: Any, output: str) -> None:
    """Hold an output, until another job takes it. Sends "holds" first, and the message of the error at the end."""
    from dying import wait_until

    from ray_segformer.outputs import OutputError, OutputFolder

    try:
        with OutputFolder(output) as folder:
            folder.begin()
            connection.send("holds")
            wait_until(lambda: folder.lease.lost)
            folder.finish({}, {})
    except OutputError as error:
        connection.send(str(error))


def write_until(output: Any, rows: list[dict[str, Any]], last: int) -> None:
    """Call `write_rows`, and send SIGKILL to this process before its change on disk number `last`, counted from 1."""
    _before_change(last, lambda: os.kill(os.getpid(), signal.SIGKILL))
    write_rows(output, rows)


def overwrite_until(output: Any, last: int) -> None:
    """Overwrite an output of `write_rows` by one without rows, and interrupt that before a change, as Ctrl-C does."""
    from ray_segformer.outputs import OutputFolder

    def interrupt() -> None:
        raise KeyboardInterrupt

    _before_change(last, interrupt)
    try:
        with OutputFolder(str(output), overwrite=True, options={"model": "a"}) as folder:
            folder.begin()
            folder.finish({"images": 0}, {0: "other"})
    except KeyboardInterrupt:
        sys.exit(130)


def _before_change(last: int, act: Callable[[], None]) -> None:
    """Call `act` before the change on disk number `last` of this process, counted from 1."""
    changes = 0

    def count(event: str, values: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in _CHANGES or (event == "open" and values[2] is not None and values[2] & (os.O_WRONLY | os.O_RDWR)):
            changes += 1
            if changes == last:
                act()

    sys.addaudithook(count)


def killed_before(output: Any, rows: list[dict[str, Any]], change: int) -> bool:
    """Call `write_until` in a process, and return whether it was killed. Otherwise, it made fewer changes."""
    return _ends_early(-signal.SIGKILL, write_until, output, rows, change)


def interrupted_before(output: Any, change: int) -> bool:
    """Call `overwrite_until` in a process, and return whether it was interrupted. Otherwise, it made fewer changes."""
    return _ends_early(130, overwrite_until, output, change)


def _ends_early(exit_code: int, target: Callable[..., None], *arguments: Any) -> bool:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    process.join(MINUTES)
    assert process.exitcode in (0, exit_code)
    return process.exitcode != 0
