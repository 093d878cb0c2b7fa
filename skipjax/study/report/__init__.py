"""A study as one HTML file that stands alone."""
