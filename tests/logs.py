"""The same listening as each source would have logged it, in that source's schema."""

import collections
import dataclasses
import datetime
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime.datetime(2018, 7, 15, tzinfo=datetime.UTC)
FEATURES = [
    "track_id",
    "duration",
    "release_year",
    "us_popularity_estimate",
    "acousticness",
    "beat_strength",
    "bounciness",
    "danceability",
    "dyn_range_mean",
    "energy",
    "flatness",
    "instrumentalness",
    "key",
    "liveness",
    "loudness",
    "mechanism",
    "mode",
    "organism",
    "speechiness",
    "tempo",
    "time_signature",
    "valence",
    *(f"acoustic_vector_{i}" for i in range(8)),
]
WHOLE_FEATURES = {"release_year": 1950, "key": 0, "time_signature": 1}


@dataclasses.dataclass(frozen=True)
class Play:
    listener: int
    session: int
    position: int  # in the session, from 0
    length: int  # of the session
    seconds: int  # since START
    track: int  # a number of three digits, so that its order is that of any text with it
    skipped: bool

    @property
    def stamp(self):
        return self.at.strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def at(self):
        return START + datetime.timedelta(seconds=self.seconds)


def listening(listeners=6, sessions=48, tracks=40):
    """A session of 10 to 12 plays every two hours, by one listener after another.

    Every fourth play of a track is skipped, and the next one follows within 40 s, else after two
    minutes or more. A track is played about a dozen times, so that two minutes are its usual time.
    """
    rng = np.random.default_rng(0)
    plays, heard = [], collections.Counter()
    for session in range(sessions):
        at, length = 7200 * session, 10 + session % 3
        track = int(rng.integers(tracks))
        for position in range(length):
            skipped = heard[track] % 4 == 3
            heard[track] += 1
            plays.append(
                Play(session % listeners, session, position, length, at, 100 + track, skipped)
            )
            at += 5 * int(rng.integers(5, 8) if skipped else rng.integers(24, 28))
            track = (track + 1 + int(rng.random() < 0.2) * int(rng.integers(tracks - 15))) % tracks
    return plays


def rows_of(plays):
    """By listener, oldest first, as most logs are."""
    return sorted(plays, key=lambda play: (play.listener, play.seconds))


def put_mssd(folder, plays):
    """Two log files, as published."""
    folder.mkdir(parents=True)
    for i in range(2):
        some = [play for play in plays if play.session % 2 == i]
        rows = [_mssd_row(play) for play in some]
        lines = [rows[0], *(row.values() for row in rows)]
        text = "".join(",".join(map(str, line)) + "\n" for line in lines)
        (folder / f"log_{i}_20180715_000000000000.csv").write_text(text)
    return folder


def _mssd_row(play):
    def told(flag):
        return "true" if flag else "false"

    return {
        "session_id": f"0_{play.session:08}-65c3-4cca-90ea-6c68c23603dc",
        "session_position": play.position + 1,
        "session_length": play.length,
        "track_id_clean": _mssd_track(play),
        "skip_1": told(play.skipped and play.track % 2),
        "skip_2": told(play.skipped),
        "skip_3": told(play.skipped),
        "not_skipped": told(not play.skipped),
        "context_switch": 0,
        "no_pause_before_play": 1,
        "short_pause_before_play": 0,
        "long_pause_before_play": 0,
        "hist_user_behavior_n_seekfwd": 0,
        "hist_user_behavior_n_seekback": 0,
        "hist_user_behavior_is_shuffle": told(play.session % 2),
        "hour_of_day": play.at.hour,
        "date": play.at.date(),
        "premium": told(play.listener),
        "context_type": ("catalog", "radio")[play.session % 2],
        "hist_user_behavior_reason_start": "trackdone",
        "hist_user_behavior_reason_end": "fwdbtn" if play.skipped else "trackdone",
    }


def _mssd_track(play):
    return f"t_{play.track:08}-aec7-4eb1-bd2f-4ecc9b16c379"


def put_features(folder, plays):
    """Those of MSSD's tracks, which lie beside its logs."""
    folder.mkdir(parents=True)
    rows = feature_rows(sorted({_mssd_track(play) for play in plays}))
    (folder / "tf_000000000000.csv").write_bytes(features_csv(rows))
    return folder


def feature_rows(track_ids, seed=0):
    """Rows as {column: text}, with values as long as those that are published."""
    rng = np.random.default_rng(seed)
    rows = []
    for track_id in track_ids:
        row = {name: repr(float(np.float32(rng.normal()))) for name in FEATURES}
        row |= {name: str(low + int(rng.integers(12))) for name, low in WHOLE_FEATURES.items()}
        row |= {"track_id": track_id, "mode": str(rng.choice(["major", "minor"]))}
        row["dyn_range_mean"] = "1e-05"
        rows.append(row)
    return rows


def features_csv(rows, columns=FEATURES):
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines).encode()


def put_yambda(folder, plays, *, reactions=True, sequential=False):
    """`multi_event`, where half of what was skipped was disliked instead; else `listens`."""
    rows = []
    for play in rows_of(plays):
        disliked = reactions and play.skipped and play.track % 2
        row = {
            "uid": play.listener + 7,
            "timestamp": play.seconds,
            "item_id": play.track,
            "is_organic": play.session % 2,
            "event_type": "listen",
            "played_ratio_pct": 12 if play.skipped and not disliked else 97,
            "track_length_seconds": 180,
        }
        rows.append(row)
        if disliked or (reactions and play.track % 5 == 0):
            said = {"event_type": "dislike" if disliked else "like", "timestamp": play.seconds + 5}
            rows.append(row | said | {"played_ratio_pct": None, "track_length_seconds": None})
    types = {
        "uid": pa.uint32(),
        "timestamp": pa.uint32(),
        "item_id": pa.uint32(),
        "is_organic": pa.uint8(),
        "event_type": pa.string(),
        "played_ratio_pct": pa.uint16(),
        "track_length_seconds": pa.uint32(),
    }
    if not reactions:
        del types["event_type"]
    listeners = {}
    for row in rows:
        listeners.setdefault(row["uid"], []).append(row)
    columns = {}
    for name, kind in types.items():
        lists = pa.array(
            [[row[name] for row in some] for some in listeners.values()], pa.list_(kind)
        )
        columns[name] = lists if sequential else lists.flatten()
    if sequential:
        columns["uid"] = pa.array(listeners, types["uid"])
    folder.mkdir(parents=True)
    pq.write_table(
        pa.table(columns), folder / f"{'multi_event' if reactions else 'listens'}.parquet"
    )
    return folder


def put_lastfm(path, plays):
    """The archive as it is published: a log that has the newest play first, and its users."""
    rows = sorted(plays, key=lambda play: (play.listener, -play.seconds))
    lines = [
        "\t".join(
            (f"user_{play.listener:06}", play.stamp, "", "Artist", f"{play.track:08}-aaaa", "T")
        )
        for play in rows
    ]
    files = {
        "userid-timestamp-artid-artname-traid-traname.tsv": "\n".join([*lines, ""]),
        "userid-profile.tsv": "#id\tgender\tage\tcountry\tregistered\n",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"lastfm-dataset-1K/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def put_spotify(folder, plays):
    """One listener's files, those of podcasts and payments left out."""
    values = [
        {
            "ts": play.stamp,
            "platform": "ios",
            "ms_played": 4_000 if play.skipped and play.track % 2 else 20_000 + play.track,
            "conn_country": "AT",
            "ip_addr": "203.0.113.7",
            "master_metadata_track_name": f"Name {play.track}",
            "master_metadata_album_artist_name": "Artist",
            "master_metadata_album_album_name": "Album",
            "spotify_track_uri": f"spotify:track:{play.track:022}",
            "episode_name": None,
            "episode_show_name": None,
            "spotify_episode_uri": None,
            "audiobook_title": None,
            "audiobook_uri": None,
            "audiobook_chapter_uri": None,
            "audiobook_chapter_title": None,
            "reason_start": "trackdone",
            "reason_end": "fwdbtn" if play.skipped else "trackdone",
            "shuffle": False,
            "skipped": play.skipped,
            "offline": False,
            "offline_timestamp": None,
            "incognito_mode": False,
        }
        for play in plays
    ]
    folder.mkdir(parents=True)
    half = len(values) // 2
    for name, some in (("2018_0", values[:half]), ("2018_1", values[half:])):
        path = folder / f"Streaming_History_Audio_{name}.json"
        path.write_text(json.dumps(some), encoding="utf-8")
    return folder


def put_inter(path, plays):
    header = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    return _put_lines(path, "\t", header, _ratings(plays))


def put_ratings(path, plays):
    """MovieLens' table of ratings."""
    return _put_lines(path, ",", ("userId", "movieId", "rating", "timestamp"), _ratings(plays))


def put_plays(path, plays):
    """A table of somebody's own."""
    rows = [
        (f"u{play.listener}", f"t{play.track}", _epoch(play), int(play.skipped))
        for play in rows_of(plays)
    ]
    return _put_lines(path, ",", ("user", "track", "time", "skipped"), rows)


def _ratings(plays):
    """Two stars or fewer for what was skipped."""
    return [
        (p.listener, p.track, 1.0 + p.track % 2 if p.skipped else 3.0 + p.track % 3, _epoch(p))
        for p in rows_of(plays)
    ]


def _epoch(play):
    return int(play.at.timestamp())


def _put_lines(path, separator, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join([*lines, ""]))
    return path
