"""The dense CRF. Independent of torch and of files."""
