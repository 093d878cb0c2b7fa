"""A made-up process of listening, in which skips tell of taste.

Nobody heard any of this: the shares are those of MSSD's 10,000-session mini log, the rest is the
process below, and whatever is measured on it is synthetic.

Tracks lie in albums of ALBUM_TRACKS, albums in styles of STYLE_TRACKS. A style is a random unit
vector; the vector z of a track is that of its style with noise, at length 1. Popularity is
Zipf-Mandelbrot over the tracks in a random order: w(r) = (r + POPULARITY_SHIFT)^-POPULARITY_DECAY
for the track of rank r = 1, 2, ...

A session is about one track, drawn by popularity or, in a NICHE_SHARE of sessions, from all alike:
the track's style is the session's, its vector the session's taste. Each next track is one of these:

1. The one after the last track on its album, whose end leads back to its start. Probability
   FOLLOW, by whether the last track was skipped; times FOLLOW_SHUFFLED in shuffled sessions.
2. Else one off taste, from all tracks by popularity. Probability OFF_TASTE, by the context; times
   OFF_TASTE_AFTER_SKIP after a skip, since leaving a track leads back to taste.
3. Else one of the session's style, from its n tracks in order the one at n · u^STYLE_SKEW for a
   uniform u, so that the first are its best known.

One heard in this session before gives way to the one after it on its album. The listener's
dislike of event i is

    dislike_i = (1 - z_i · taste) + MOOD · mood + MOMENTUM · dislike_{i-1} + NOISE · noise_i

with a standard normal mood per session and noise per event. The most disliked events are skip_1,
the next skip_2, and so on: thresholds, a set for each position and one for the last of a session,
are quantiles of a pilot sample of the same process, so that shares come out as asked.
"""

import dataclasses

import numpy as np

PILOT_SESSIONS = 20_000

MIN_LENGTH, MAX_LENGTH = 10, 20
FULL_LENGTH_SHARE = 0.416  # have MAX_LENGTH tracks; shorter lengths are equally likely
MEAN_LENGTH = (
    FULL_LENGTH_SHARE * MAX_LENGTH + (1 - FULL_LENGTH_SHARE) * (MIN_LENGTH + MAX_LENGTH - 1) / 2
)  # 16.79

ALBUM_TRACKS = 12
STYLE_TRACKS = 6 * ALBUM_TRACKS
LATENT_SIZE = 6
LATENT_NOISE = 0.2
# These three: of a million tracks about 52,000 are heard in 10,000 sessions and 700,000 in
# 450,000; the top track in about 11 % of sessions, with 5,000 tracks as with a million.
POPULARITY_DECAY = 1.85
POPULARITY_SHIFT = 30.0
NICHE_SHARE = 0.25
STYLE_SKEW = 2

FOLLOW = np.array([0.6, 0.25])  # after a played and after a skipped track
FOLLOW_SHUFFLED = 0.4
OFF_TASTE_AFTER_SKIP = 0.6
MOOD, MOMENTUM, NOISE = 0.2, 0.15, 0.35

CONTEXTS = {  # events in MSSD's mini log, and how often the next track is one off taste
    "user_collection": (67_430, 0.4),
    "catalog": (38_263, 0.4),
    "editorial_playlist": (35_663, 0.6),
    "radio": (21_107, 0.7),
    "personalized_playlist": (2_976, 0.5),
    "charts": (2_441, 0.8),
}
CONTEXT_COUNTS, OFF_TASTE = np.array(list(CONTEXTS.values())).T
CONTEXT_SWITCH_SHARE = 0.03  # of events that are not a session's first
SHUFFLE_SHARE = 0.309

# Events have a degree: 0 not_skipped, 1 neither that nor skip_3, 2 skip_3, 3 skip_2, 4 skip_1.
DEGREE_SHARES = np.array([1 - 0.3329, 0.6484, 0.5172, 0.4215])  # of at least 1, 2, 3, 4
LAST_SKIP_SHARE = 0.404  # of skip_2 at the last position
SKIP_DEGREE = 3  # counts as skipped


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """T tracks: `vectors` [T, LATENT_SIZE], and `popularity` cumulated, [T]."""

    vectors: np.ndarray
    popularity: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, num_tracks: int) -> "Catalogue":
        num_styles = -(-num_tracks // STYLE_TRACKS)
        styles = _unit(rng.standard_normal((num_styles, LATENT_SIZE), np.float32))
        noise = rng.standard_normal((num_tracks, LATENT_SIZE), np.float32)
        ranks = 1 + rng.permutation(num_tracks)
        return cls(
            vectors=_unit(styles[np.arange(num_tracks) // STYLE_TRACKS] + LATENT_NOISE * noise),
            popularity=cumulated((ranks + POPULARITY_SHIFT) ** -POPULARITY_DECAY),
        )

    @property
    def num_tracks(self) -> int:
        return len(self.vectors)

    def popular(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count] tracks drawn by popularity."""
        return pick(self.popularity, rng.random(count))

    def followers(self, tracks: np.ndarray) -> np.ndarray:
        """The track after each on its album."""
        ends = (tracks % ALBUM_TRACKS == ALBUM_TRACKS - 1) | (tracks == self.num_tracks - 1)
        return np.where(ends, tracks - tracks % ALBUM_TRACKS, tracks + 1)


@dataclasses.dataclass(frozen=True)
class Listening:
    """N sessions: `lengths` and `shuffled` [N], the rest [N, MAX_LENGTH] and padded."""

    lengths: np.ndarray
    shuffled: np.ndarray
    contexts: np.ndarray
    switches: np.ndarray
    tracks: np.ndarray
    degrees: np.ndarray


def skip_thresholds(
    catalogue: Catalogue, rng: np.random.Generator, skip_share: float | None = None
) -> np.ndarray:
    """[MAX_LENGTH + 1, 4] dislikes beyond which an event has a degree of at least 1, 2, 3, 4.

    There is a row for each position, and one for the last of a session. A `skip_share` of events
    are then skipped, all degrees in proportion; None is for MSSD's shares.
    """
    return _listen(catalogue, rng, PILOT_SESSIONS, shares=_shares(skip_share))[1]


def listen(
    catalogue: Catalogue, rng: np.random.Generator, count: int, thresholds: np.ndarray
) -> Listening:
    """`count` sessions of the process above."""
    return _listen(catalogue, rng, count, thresholds=thresholds)[0]


def _listen(
    catalogue: Catalogue,
    rng: np.random.Generator,
    count: int,
    *,
    thresholds: np.ndarray | None = None,
    shares: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[Listening, np.ndarray]:
    """Sessions, position by position, and the thresholds used.

    Where `shares` are given instead of thresholds, these are made so that the shares come out.
    """
    calibrating = thresholds is None
    if calibrating:
        thresholds = np.zeros((MAX_LENGTH + 1, len(DEGREE_SHARES)))
    is_full = even(rng, count) < FULL_LENGTH_SHARE
    lengths = np.where(is_full, MAX_LENGTH, rng.integers(MIN_LENGTH, MAX_LENGTH, count))
    shuffled = even(rng, count) < SHUFFLE_SHARE

    shape = (count, MAX_LENGTH)
    switches = rng.random(shape) < CONTEXT_SWITCH_SHARE
    switches[:, 0] = False
    uniform = rng.random(shape)
    uniform[:, 0] = even(rng, count)
    since = np.maximum.accumulate(np.where(switches, np.arange(MAX_LENGTH), 0), axis=1)
    contexts = np.take_along_axis(pick(cumulated(CONTEXT_COUNTS), uniform), since, axis=1)

    is_niche = even(rng, count) < NICHE_SHARE
    niche = rng.integers(catalogue.num_tracks, size=count)
    about = np.where(is_niche, niche, catalogue.popular(rng, count))
    taste = catalogue.vectors[about]
    style_start = about - about % STYLE_TRACKS
    style_size = np.minimum(STYLE_TRACKS, catalogue.num_tracks - style_start)

    mood = MOOD * rng.standard_normal(count)
    dislike, last_dislike = np.zeros(count), np.zeros(count)
    skipped = np.zeros(count, bool)
    tracks, degrees = np.zeros(shape, np.int32), np.zeros(shape, np.int8)
    for i in range(MAX_LENGTH):
        off_taste = OFF_TASTE[contexts[:, i]] * np.where(skipped, OFF_TASTE_AFTER_SKIP, 1)
        in_style = (style_size * rng.random(count) ** STYLE_SKEW).astype(np.int64)
        track = np.where(
            rng.random(count) < off_taste, catalogue.popular(rng, count), style_start + in_style
        )
        if i > 0:
            follow = FOLLOW[skipped.astype(int)] * np.where(shuffled, FOLLOW_SHUFFLED, 1)
            followers = catalogue.followers(tracks[:, i - 1])
            track = np.where(rng.random(count) < follow, followers, track)
            heard = (tracks[:, :i] == track[:, None]).any(axis=1)
            track = np.where(heard, catalogue.followers(track), track)
        tracks[:, i] = track

        distance = 1 - (catalogue.vectors[track] * taste).sum(axis=1)
        noise = NOISE * rng.standard_normal(count)
        dislike = distance + mood + MOMENTUM * dislike + noise
        is_last = lengths == i + 1
        last_dislike[is_last] = dislike[is_last]
        if calibrating and i + 1 < MAX_LENGTH:
            thresholds[i] = np.quantile(dislike[lengths > i + 1], 1 - shares[0])
        limits = thresholds[np.where(is_last, MAX_LENGTH, i)]
        degrees[:, i] = (dislike[:, None] > limits).sum(axis=1)
        skipped = degrees[:, i] >= SKIP_DEGREE
    if calibrating:
        thresholds[MAX_LENGTH] = np.quantile(last_dislike, 1 - shares[1])
    return Listening(lengths, shuffled, contexts, switches, tracks, degrees), thresholds


def _shares(skip_share: float | None) -> tuple[np.ndarray, np.ndarray]:
    """DEGREE_SHARES before the last position and at it, for `skip_share` over all positions."""
    mssd = DEGREE_SHARES[SKIP_DEGREE - 1]

    def scaled(values: np.ndarray | float, share: float) -> np.ndarray:
        if share <= mssd:
            return np.multiply(values, share / mssd)
        return 1 - np.subtract(1, values) * (1 - share) / (1 - mssd)  # so that none passes 1

    share = mssd if skip_share is None else skip_share
    last = scaled(DEGREE_SHARES, scaled(LAST_SKIP_SHARE, share))
    before = (MEAN_LENGTH * scaled(DEGREE_SHARES, share) - last) / (MEAN_LENGTH - 1)
    return before, last


def even(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count] uniform draws, one from each of `count` equal parts of [0, 1), in random order."""
    return rng.permutation((np.arange(count) + rng.random(count)) / count)


def cumulated(weights: np.ndarray) -> np.ndarray:
    return np.cumsum(weights) / np.sum(weights)


def pick(cumulated: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The index that each uniform draw stands for, by weights that are `cumulated`."""
    return np.minimum(np.searchsorted(cumulated, uniform, side="right"), len(cumulated) - 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
