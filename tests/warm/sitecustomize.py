"""Become a fork of the warm process of `run.py`, if this process is to be a worker of Ray.

Python imports this file when it starts. Ray watches the process that it started, so that one stays until the fork ends.
"""

import os
import sys


def _become_a_fork() -> None:
    path, _, prefix = os.environ.get("TESTS_WARM_PROCESS", "").partition("|")
    script = os.path.basename(sys.orig_argv[1]) if len(sys.orig_argv) > 1 else ""
    if prefix != sys.prefix or script not in ("setup_worker.py", "default_worker.py"):
        return
    arguments = [argument for argument in sys.orig_argv[1:] if not argument.startswith("--language=")]
    if script == "setup_worker.py":  # It sets up a runtime environment, then starts the script that follows.
        plain = ("--serialized-runtime-env-context={}", "--serialized-runtime-env-context=")
        arguments = [argument for argument in arguments[1:] if argument not in plain]
        if any(argument.startswith("--serialized-runtime-env-context=") for argument in arguments):
            return

    import json
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(connection, [b"\0"], [0, 1, 2])
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # It returns when the fork ends.
    os._exit(0)


_become_a_fork()
