"""A trained model on its own: as a folder, and as an HTTP service."""
