"""Proposal sources, edge detectors, and the HDF5 files of proposals and windows. Independent of torch."""
