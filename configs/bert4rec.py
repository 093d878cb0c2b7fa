"""Table 1, bidirectional S-: BERT4Rec-like encoder, NLL alone."""

from configs import common


def get_config():
    config = common.get_config()
    config.name = "bert4rec"
    config.model.causal = False
    return config
