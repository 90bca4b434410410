"""Speed as ratios against what users would run instead: ``python -m benchmarks.<name>``."""
