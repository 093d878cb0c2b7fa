"""The track ids that are not tracks, and how many tracks of a session are held out."""

PAD_ID = 0
MASK_ID = 1
FIRST_TRACK_ID = 2  # real tracks, by falling count in the training spans
HELD_OUT = 2  # at the end of each session: one for validation, one for the test
