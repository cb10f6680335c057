"""Measures poise against its targets (P1 to P8) and against its peers: `python -m bench --help`."""
