"""The commands behind ``python -m skipjax``: parse, call, print."""
