"""Compare this package with other ways to run SegFormer: `python -m benchmarks`. See README.md."""
