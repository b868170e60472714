"""Measure this package and its peers on this machine, side by side; see benchmarks/README.md."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# The sections in the order in which they run, with the names of their modules.
SECTIONS = {
    "network": "network",
    "models": "models",
    "argmax": "argmax",
    "files": "files",
    "ray": "through_ray",
    "timeline": "timeline",
    "memory": "memory",
    "windows": "windows",
    "huge": "huge",
    "scenes": "scenes",
    "scaling": "scaling",
    "startup": "startup",
    "fuzz": "fuzz",
    "streaming": "streaming",
    "storage": "storage",
    "listing": "listing",
    "finetune": "finetune",
    "soak": "soak",
    "night": "night",
}
# They take 8 to 20 minutes on two cores.
_ONLY_BY_NAME = ("models", "huge", "scenes", "listing", "finetune", "soak", "night")


def main() -> int:
    """Run the sections, and write the results after each one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    usual = [name for name in SECTIONS if name not in _ONLY_BY_NAME]
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=usual,
        help=f"these sections (default: all but {', '.join(_ONLY_BY_NAME)})",
    )
    parser.add_argument("--output", default=REPOSITORY / "out" / "benchmarks", type=Path, help="folder of the results")
    parser.add_argument("--shared", default=REPOSITORY.parent / "shared", type=Path, help="folder with data/, models/")
    parser.add_argument("--repeats", type=int, help="rounds of tables with turns (default: each section has its own)")
    parser.add_argument("--threads", type=int, default=cores, help="threads of each contestant (default: all cores)")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes: a quick look, with numbers that must not be quoted"
    )
    arguments = parser.parse_args()
    if not (arguments.shared / "data").is_dir():
        parser.error(f"{arguments.shared} has no data/; name the folder with data/ and models/ by --shared")
    if arguments.threads < 1 or (arguments.repeats is not None and arguments.repeats < 1):
        parser.error("--threads and --repeats are at least 1")

    # The processes of contestants and of Ray inherit this: where the package is, no log lines, and a Ray of their own.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    os.environ.update(TQDM_DISABLE="1", PYTHONWARNINGS="ignore", RAY_BACKEND_LOG_LEVEL="fatal", RAY_ADDRESS="local")

    import torch

    from benchmarks.measure import disturbances
    from benchmarks.plot import draw
    from benchmarks.plot_memory import draw_memory
    from benchmarks.report import Report
    from benchmarks.settings import Settings

    torch.set_num_threads(arguments.threads)
    settings = Settings(arguments.shared, arguments.threads, arguments.repeats, arguments.quick)
    report = Report(arguments.output, settings)
    for name in SECTIONS:
        if name in arguments.only:
            started = time.monotonic()
            tables = importlib.import_module(f"benchmarks.{SECTIONS[name]}").run(settings)
            report.add(name, tables, time.monotonic() - started, disturbances())
    drawn = draw(report.content, arguments.output / "benchmarks.png") + draw_memory(report.content, arguments.output)
    print(f"{arguments.output}: {', '.join(['results.json', 'results.md', *drawn])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
