"""From raw logs to batches, with NumPy and pyarrow alone."""
