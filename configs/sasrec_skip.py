"""Table 1, causal S+: SASRec-like encoder with the skip term.

:track (the default) or :hidden choose the context, c = e(t_i) or ŷ_i.
"""

from configs import common


def get_config(context: str = "track"):
    config = common.get_config()
    config.name = f"sasrec_skip-{context}"
    config.loss.context = context
    config.loss.alpha = 0.5
    config.loss.beta = 0.5
    return config
