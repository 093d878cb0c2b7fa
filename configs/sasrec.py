"""Table 1, causal S-: SASRec-like encoder, NLL alone."""

from configs import common


def get_config():
    config = common.get_config()
    config.name = "sasrec"
    return config
