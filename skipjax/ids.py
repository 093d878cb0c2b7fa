"""The track ids that are not tracks."""

PAD_ID = 0
MASK_ID = 1
FIRST_TRACK_ID = 2  # real tracks, by falling count in the training spans
