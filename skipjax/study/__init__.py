"""Do skips help: arms × seeds, baselines, statistics and a report."""
