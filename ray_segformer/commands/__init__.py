"""The commands of `ray-segformer`, one file each.

A command reads its options, calls a job, and prints the result. The work itself is done in the rooms below. Commands
import Ray, torch and the other rooms only when they run, so that `--help` is fast.
"""

__all__ = ["check", "common", "compare", "demo", "evaluate", "export", "info", "predict", "report"]
