"""Table 1, bidirectional S+: BERT4Rec-like encoder with the skip term.

:track (the default) or :hidden choose the context, c = e(t_i) or ŷ at MASK.
"""

from configs import sasrec_skip


def get_config(context: str = "track"):
    config = sasrec_skip.get_config(context)
    config.name = f"bert4rec_skip-{context}"
    config.model.causal = False
    return config
