"""Small models to serve: one that reads skips and one that does not, with ids of all kinds."""

import functools

import numpy as np
import pyarrow as pa
import runs

from skipjax import trained
from skipjax.data.catalogue import Catalogue
from skipjax.recommend import Recommender

# What an address must not garble, or take for something of its own.
STRANGE = ("a/b", "/tracks/x/similar", "50%2F", "spaces in it", "ü😀\u202e", "?q=1#", "+&=", "..;")
NAMES = [*runs.names(52), *STRANGE]


@functools.cache
def recommender(reads_skips=False, name="tiny", ids=tuple(NAMES)):
    """Untrained; tracks by falling plays, as ids are."""
    config = runs.tiny(skip_embedding=reads_skips)
    config.name = name
    encoder, params = runs.make_model(config, len(ids))
    plays = np.arange(len(ids), dtype=np.int64)[::-1]
    catalogue = Catalogue(pa.array(ids, pa.large_string()), plays)
    return Recommender(trained.model_of(config, encoder, params, catalogue, f"{name}, untrained"))
