"""The dense CRF. Knows nothing of torch or of files."""
