"""From where on a number is a note, a warning or serious, each with its reason.

None of them is a law: they say when a reader should look. The page lists those that it used.
"""

# What a study can tell: with some thousand test sessions, arms differ by about 1 % of HR@10. What
# moves that by as much must be known (a warning); what moves it by ten times as much hides all
# else (serious).
SMALL_EFFECT = 0.01
LARGE_EFFECT = 0.10

# Sessions that training leaves out: what is left is no longer the data that was logged.
LEFT_OUT_NOTE = 0.05
LEFT_OUT_WARNING = 0.50

# Pieces of sequences that were cut to length begin and end where no listener did.
CUT_NOTE = 0.10

# Skips among events. The paper has 15 %, MSSD 52 %. At 1 % a session of 15 tracks has a skip in
# one case of seven, so most sessions teach nothing about skips; at 95 % the same of plays.
FEW_SKIPS = 0.01
MANY_SKIPS = 0.95

# Skip shares of two parts of the data that differ by this much change what a mean over both says.
SHARES_APART = 0.10

# Equal times of neighbours: which came first is then the file's order, not the listener's.
TIES_NOTE = 0.001
TIES_WARNING = 0.05
TIES_SERIOUS = 0.25
# Times known no better than this cannot tell tracks apart, which mostly last longer.
COARSE_SECONDS = 60

# The same track twice in a row: a player that logs a pause as two plays, or a listener's wish. A
# model gains as much by proposing the last track again.
IMMEDIATE_NOTE = 0.01
IMMEDIATE_WARNING = 0.10
# Of all plays, those of a track heard before in the session: whether to recommend heard tracks
# matters from here on.
HEARD_NOTE = 0.10

# Test targets that no training span has: no model can learn them, so HR cannot reach 1 by as much.
COLD_WARNING = 0.05
COLD_SERIOUS = 0.25

# Test sessions: with fewer, an HR@10 of .2 has a 95 % interval wider than ± .025 or ± .08.
FEW_TESTS_WARNING = 1_000
FEW_TESTS_SERIOUS = 100
# Of the sessions, what a temporal split leaves out near its boundaries.
STRADDLING_NOTE = 0.05

# Plays that the top 1 % of tracks have: from here on, ranking by popularity is hard to beat.
TOP_NOTE = 0.25
TOP_WARNING = 0.50
# Tracks with one play: in the test they are cold, in training they teach next to nothing.
ONE_PLAY_NOTE = 0.25
# HR@10 of the most popular tracks among all tracks: a model that learns that alone looks good.
POPULAR_NOTE = 0.10
POPULAR_WARNING = 0.25
# The same among sampled candidates, most of which nobody plays: beyond one half, the sampled HR
# tells popular from rare tracks more than anything else.
SAMPLED_POPULAR_NOTE = 0.25
SAMPLED_POPULAR_WARNING = 0.50

# By how much, relatively, HR@10 of the Markov baseline falls without what was heard later.
FUTURE_WARNING = 0.10
FUTURE_SERIOUS = 0.50

# AUC of telling skipped from played. Below .52 no arm of a study could use it; from .60 on, skips
# follow a pattern that is easy to see.
AUC_NONE = 0.52
AUC_WEAK = 0.60
# No listener is as predictable: what tells skips this well is how the data was put together.
AUC_TOO_GOOD = 0.95
# A context column that tells skips this well was probably logged after the play.
AUC_GIVEN_AWAY = 0.90
