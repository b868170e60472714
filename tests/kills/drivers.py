"""Jobs in processes of their own, which stop at a certain moment: just before a certain change on disk.

Python reports each change on disk to audit hooks before it happens, so nothing of the job needs to be replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import Any

# Processes are forked from one that has imported everything, and that runs no thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["drivers", "ray.data", "torch", "ray_segformer.cli", "ray_segformer.predict"])
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


def command(connection: Any, address: str, authentication: str | None, target: str, arguments: list[str]) -> None:
    """Run `ray-segformer` with `arguments`, and stop for ever just before a file or folder is renamed to `target`.

    Args:
        connection: gets the text "stopped" then; or the exit code, if it never comes to that.
        address: of the Ray to join; "local" for a Ray of its own.
        authentication: the mode of that Ray, which Ray sets in the environment of the process that starts it.
    """
    import ray
    from ray._raylet import Config

    from ray_segformer.cli import main

    def stop(event: str, values: tuple[Any, ...]) -> None:
        if event == "os.rename" and values[1] == target:
            connection.send("stopped")
            signal.pause()

    os.environ["RAY_ADDRESS"] = address
    if authentication is not None:
        os.environ["RAY_AUTH_MODE"] = authentication
        Config.initialize("")  # it has read the environment before
    if address == "local":
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    sys.addaudithook(stop)
    connection.send(main(arguments))


def stopped(address: str, target: Any, *arguments: Any) -> Any:
    """Return a process that runs the command, and stands just before something is renamed to `target`."""
    here, there = PROCESSES.Pipe()
    authentication = os.environ.get("RAY_AUTH_MODE")
    process = PROCESSES.Process(
        target=command, args=(there, address, authentication, str(target), [*map(str, arguments)])
    )
    process.start()
    there.close()
    assert here.poll(MINUTES), "the command hangs"
    assert here.recv() == "stopped"
    return process


def write_rows(output: Any, rows: list[dict[str, Any]]) -> None:
    """Write those of the rows that are not done to a `MaskFolder`, as a job does."""
    from ray_segformer.jobs.mask_folder import MaskFolder

    with MaskFolder(str(output), "parquet", {"model": "a"}, resume=True, rows_per_shard=2) as folder:
        if folder.finished is not None:
            return
        for row, done in zip(rows, folder.done.among(row["key"] for row in rows), strict=True):
            if not done:
                folder.write(row)
        folder.commit()
        folder.finish({"images": folder.rows}, {0: "other"})


def write_until(output: Any, rows: list[dict[str, Any]], last: int) -> None:
    """Call `write_rows`, and send SIGKILL to this process before its change on disk number `last`, counted from 1."""
    changes = 0

    def die(event: str, values: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in _CHANGES or (event == "open" and values[2] is not None and values[2] & (os.O_WRONLY | os.O_RDWR)):
            changes += 1
            if changes == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    write_rows(output, rows)


def killed_before(output: Any, rows: list[dict[str, Any]], change: int) -> bool:
    """Call `write_until` in a process, and return whether it was killed. Otherwise, it made fewer changes."""
    process = PROCESSES.Process(target=write_until, args=(output, rows, change))
    process.start()
    process.join(MINUTES)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0
