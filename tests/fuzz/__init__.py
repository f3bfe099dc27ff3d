"""Damaged files of every kind and wrong values of every option, against the commands: `python -m tests.fuzz`."""
