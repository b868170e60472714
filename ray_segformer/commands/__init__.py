"""The commands of `ray-segformer`, a file each.

Each command reads its options, calls a job, and prints what came of it. Each imports what it needs when it is run, so
that `--help` is quick. The work itself is in the rooms below.
"""

__all__ = ["common", "compare", "demo", "evaluate", "info", "predict"]
