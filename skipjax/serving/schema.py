"""What may be asked of the service and what it answers, with limits; and what is wrong, in words.

The limits keep one request from taking much more than its share of memory or time.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skipjax.data.inputs import shown

MOST_SESSIONS = 1024  # in a request: a few batches; more gain nothing, and keep others waiting
MOST_TRACKS = 300  # in a session: a day of listening; models read the last 20, or so
MOST_CHARACTERS = 512  # in an id: the longest known ones, URIs, are a quarter of that
MOST_BYTES = 4 << 20  # in a body: MOST_SESSIONS of 20 tracks with ids of 200 bytes
BODY_SECONDS = 10  # for a body to arrive: MOST_BYTES at 3.4 Mbit/s; slower ones hold connections
MOST_RECOMMENDED = 100  # k: some pages of a list; larger ones would need shapes of their own
MOST_FOUND = 100  # tracks that a search gives
_SHOWN = 60  # characters of a value in a message

Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class _Strict(BaseModel):
    """No field that is not known, and nothing taken for what it is not, such as "1" for 1."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Session(_Strict):
    """What somebody listened to, in order."""

    tracks: list[Text] = Field(
        max_length=MOST_TRACKS,
        fail_fast=True,
        description="Ids as in the data that the model was trained on, in order of listening. "
        "Unknown ones are passed over and named; of many, a model reads the last.",
    )
    skipped: list[bool] | None = Field(
        None,
        max_length=MOST_TRACKS,
        fail_fast=True,
        description="Whether each track was skipped. Models with `reads_skips` false have learned "
        "from skips at most, and do not read them here.",
    )
    session_id: Text | None = Field(None, description="Given back with the answer.")


class Query(_Strict):
    """Sessions to recommend for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"sessions": [{"tracks": ["t1", "t2"], "skipped": [False, True]}], "k": 5}]
        }
    )

    sessions: list[Session] = Field(min_length=1, max_length=MOST_SESSIONS, fail_fast=True)
    k: int = Field(
        20, ge=1, le=MOST_RECOMMENDED, description="How many tracks; `/models` has the most."
    )
    exclude_seen: bool = Field(True, description="Leave out all tracks of the session itself.")
    model: Text | None = Field(None, description="A name of `/models`; by default the first.")


class SimilarQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    k: int = Field(10, ge=1, le=MOST_RECOMMENDED, description="How many tracks.")
    model: Text | None = Field(None, description="A name of `/models`; by default the first.")


class SearchQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    q: str = Field(
        "", max_length=MOST_CHARACTERS, description="Part of an id, in any case; '' finds all."
    )
    limit: int = Field(20, ge=1, le=MOST_FOUND, description="How many tracks.")


class Recommendation(BaseModel):
    track_id: str
    score: float | None = Field(
        description="Comparable within a session only; null in the fallback."
    )
    rank: int = Field(description="From 1, the best.")


class SessionAnswer(BaseModel):
    session_id: str | None = Field(description="As it was given.")
    recommendations: list[Recommendation] = Field(description="Best first; at most k.")
    unknown: list[str] = Field(description="Given tracks that the model does not know.")
    fallback: bool = Field(
        description="No given track is known: these are the most played tracks, without a score."
    )


class Answer(BaseModel):
    model: str
    reads_skips: bool = Field(description="Whether `skipped` made any difference.")
    sessions: list[SessionAnswer] = Field(description="In the order of the query.")


class Neighbour(BaseModel):
    track_id: str
    cosine: float
    rank: int = Field(description="From 1, the nearest.")


class Neighbours(BaseModel):
    model: str
    track_id: str
    similar: list[Neighbour]


class FoundTrack(BaseModel):
    track_id: str
    plays: int = Field(description="In training.")


class Found(BaseModel):
    tracks: list[FoundTrack] = Field(description="Most played first.")


class ModelFacts(BaseModel):
    name: str
    about: str
    tracks: int = Field(description="How many it knows.")
    reads_skips: bool = Field(
        description="Whether skips of the session make a difference. Where false, the model has "
        "learned from skips in training at most."
    )
    max_k: int = Field(description="The largest k.")
    max_tracks: int = Field(description="How many tracks of a session it reads, the last ones.")


class Models(BaseModel):
    models: list[ModelFacts] = Field(description="In the order of the command line.")


class Health(BaseModel):
    ready: bool
    detail: str


class Problem(BaseModel):
    detail: str = Field(description="What is wrong, with which value, and what to do instead.")


# What completes "give ...", by field; [] stands for what a list has.
_WANTED = {
    "": 'an object such as {"sessions": [{"tracks": ["t1", "t2"]}]}',
    "sessions": f"a list of 1 to {MOST_SESSIONS:,} sessions",
    "sessions[]": 'an object such as {"tracks": ["t1", "t2"]}',
    "tracks": f"a list of at most {MOST_TRACKS} ids",
    "tracks[]": f"an id as text, of 1 to {MOST_CHARACTERS} characters",
    "skipped": f"a list of at most {MOST_TRACKS} true and false, one for each track",
    "skipped[]": "true or false",
    "session_id": f"text of 1 to {MOST_CHARACTERS} characters, or leave it out",
    "k": f"a whole number from 1 to {MOST_RECOMMENDED}",
    "exclude_seen": "true or false",
    "model": "a name of /models as text, or leave it out",
    "q": f"text of at most {MOST_CHARACTERS} characters",
    "limit": f"a whole number from 1 to {MOST_FOUND}",
    "track_id": f"an id of 1 to {MOST_CHARACTERS} characters",
}


class BadRequest(Exception):
    """Something in a request that cannot be honoured; `status` is 4xx."""

    def __init__(self, message: str, status: int = 422):
        super().__init__(message)
        self.status = status


def parse(body: bytes) -> Query:
    """The query of a JSON body.

    Raises:
      BadRequest: it is none, which says why.
    """
    try:
        query = Query.model_validate_json(body)
    except ValidationError as error:
        raise problem(error.errors(include_url=False)) from None
    for number, session in enumerate(query.sessions):
        if session.skipped is not None and len(session.skipped) != len(session.tracks):
            raise BadRequest(
                f"sessions[{number}].skipped has {len(session.skipped)} values and tracks has "
                f"{len(session.tracks)}; give one for each track."
            )
    return query


def problem(errors: Sequence[Mapping[str, Any]]) -> BadRequest:
    """The first of pydantic's errors, as one line."""
    error = errors[0]
    place = [part for part in error["loc"] if part not in ("body", "query", "path")]
    if error["type"] == "json_invalid":
        reason = shown(error["ctx"]["error"], 200)
        return BadRequest(f"the body is not JSON: {reason}; give {_WANTED['']}.", 400)
    where, name = "", ""
    for part in place:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
        name = f"{name}[]" if isinstance(part, int) else str(part)
    if error["type"] == "extra_forbidden":
        return BadRequest(_unknown_field(where, name))
    if error["type"] == "missing":
        return BadRequest(f"{shown(where, _SHOWN)} is missing; give {_WANTED[name]}.")
    return BadRequest(refusal(where, name, error["input"]))


def refusal(where: str, name: str, value: Any) -> str:
    """Says of a field, which lies at `where`, that its value cannot be used."""
    return f"{where or 'the body'} is {described(value)}; give {_WANTED[name]}."


def described(value: Any) -> str:
    """A value for a message: as JSON has it, and not too long."""
    if isinstance(value, list | dict):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value):,}"
    if isinstance(value, str):
        length = f", {len(value):,} characters" if len(value) > _SHOWN else ""
        return shown(repr(value), _SHOWN) + length
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return shown(repr(value), _SHOWN)


def _unknown_field(where: str, name: str) -> str:
    close = difflib.get_close_matches(name[:MOST_CHARACTERS], _FIELDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else "; leave it out."
    return f"there is no field {shown(where, _SHOWN)}{hint}"


_FIELDS = [
    field for model in (Query, Session, SimilarQuery, SearchQuery) for field in model.model_fields
]
