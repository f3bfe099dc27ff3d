"""Recipes, recorded results, the reproduction table, figures, benchmarks, the synthetic VOC set."""

import stages as stages  # Ctrl-C while a command imports its libraries is one line here too
