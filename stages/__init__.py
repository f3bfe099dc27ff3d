"""The commands: `python -m stages.NAME --help`."""
