"""How fast, on what, against what: the library and what else a user would pick, measured in one run.

Run `python -m benchmarks --help` in the root of the repository.
"""
