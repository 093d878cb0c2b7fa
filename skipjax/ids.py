"""Ids that are not tracks, codes of feedback, and what splits hold out of training."""

PAD_ID = 0
MASK_ID = 1
FIRST_TRACK_ID = 2  # real tracks, by falling count in the training spans
UNKNOWN, PLAYED, SKIPPED = 0, 1, 2  # feedback on a track, as an encoder may read it
# At the end of each session that is trained on, by config.data.split: leave-one-out holds out one
# track for validation and one for the test, a split in time takes other sessions for those.
HELD_OUT = {"leave_one_out": 2, "temporal": 0}
LEAVE_ONE_OUT = "leave-one-out"  # what results call the one; the other's name has its hours
