"""Ids that are not tracks, codes of feedback, and how many tracks of a session are held out."""

PAD_ID = 0
MASK_ID = 1
FIRST_TRACK_ID = 2  # real tracks, by falling count in the training spans
UNKNOWN, PLAYED, SKIPPED = 0, 1, 2  # feedback on a track, as an encoder may read it
HELD_OUT = 2  # at the end of each session: one for validation, one for the test
