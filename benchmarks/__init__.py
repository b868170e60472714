"""`python -m benchmarks`: this package beside the ways people run SegFormer without it. See README.md."""
