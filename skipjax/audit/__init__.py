"""What a folder of sessions hides, in plain sentences, before anything is trained on it."""
