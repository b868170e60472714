"""What `python -m ray_segformer` runs: the command."""

import sys

from ray_segformer.cli import command

if __name__ == "__main__":
    sys.exit(command())
