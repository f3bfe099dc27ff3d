"""Recipes, recorded results, the reproduction table, figures, benchmarks, the synthetic VOC set."""
