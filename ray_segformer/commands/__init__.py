"""The commands of `ray-segformer`, one file each.

A command reads its options, calls a job, and prints the result. The work itself is done in the rooms below. Commands
import Ray, torch and the other rooms only when they run, so that `--help` is fast.
"""

from ray_segformer.commands._parser import Parser, PrintCompletion

__all__ = [
    "Parser",
    "PrintCompletion",
    "check",
    "common",
    "compare",
    "demo",
    "evaluate",
    "export",
    "info",
    "predict",
    "report",
]
