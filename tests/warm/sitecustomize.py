"""Become a fork of the warm process of `run.py`, if this process is to be a worker of Ray.

Python imports this file when it starts. Ray watches the process that it started, so that one stays until the fork ends.
"""

import atexit
import gc
import os
import signal
import sys

# Ray's processes that look for new logs of workers, which no test reads, and for nodes to add. They take four seconds
# of a CPU for each Ray. Here they sleep until Ray ends them.
_ASLEEP = frozenset(("log_monitor.py", "monitor.py"))

# Variables that Ray Train and Ray Tune set in the runtime environments of workers. They are read when these run.
_READ_LATE = frozenset(("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "PL_DISABLE_FORK", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"))

# Python looks for cycles after each 700 new objects. The imports of torch and Ray make a million, and no cycles.
gc.set_threshold(10_000, 20, 20)

# It looks for them once more when it ends, which takes most of a second after such imports, unless all is frozen.
# Triton's library would report each of its objects that is left.
atexit.register(lambda: "triton" in sys.modules or gc.freeze())


def _become_a_fork() -> None:
    path, _, prefix = os.environ.get("TESTS_WARM_PROCESS", "").partition("|")
    script = next((os.path.basename(each) for each in sys.orig_argv[1:3] if each.endswith(".py")), "")
    if prefix == sys.prefix and script in _ASLEEP:
        while True:
            signal.pause()
    if prefix != sys.prefix or script not in ("setup_worker.py", "default_worker.py"):
        return
    import json
    import socket

    variables: dict[str, str] = {}
    arguments = [argument for argument in sys.orig_argv[1:] if not argument.startswith("--language=")]
    if script == "setup_worker.py":  # It sets up a runtime environment, then starts the script that follows.
        option = "--serialized-runtime-env-context="
        contexts = [argument.removeprefix(option) for argument in arguments if argument.startswith(option)]
        arguments = [argument for argument in arguments[1:] if not argument.startswith(option)]
        context = json.loads("".join(contexts) or "{}")
        variables = context.pop("env_vars", {})
        if context.pop("py_executable", sys.executable) != sys.executable or any(context.values()):
            return
        if not _READ_LATE.issuperset(variables):
            return

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = {"arguments": arguments, "environment": dict(os.environ), "added": variables, "folder": os.getcwd()}
        socket.send_fds(connection, [b"\0"], [0, 1, 2])
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # It returns when the fork ends.
    os._exit(0)


_become_a_fork()
