"""Faults for the reliability tests: processes that are killed, I/O that fails, bits that flip."""
