"""The commands of `ray-segformer`, a file each. Each imports what it needs when it is run: `--help` is quick."""
