"""`python -m ray_segformer` is the command `ray-segformer`."""

import sys

from ray_segformer.cli import command

if __name__ == "__main__":
    sys.exit(command())
