"""`make bench`: the figures of docs/benchmarks.md, each as a ratio of two things measured in one run."""
