"""sasrec_skip in seconds, for tests and for a look; its numbers mean nothing."""

from configs import sasrec_skip


def get_config(context: str = "track"):
    config = sasrec_skip.get_config(context)
    config.name = f"tiny-{context}"
    config.data.demo.num_sessions = 150
    config.data.demo.num_tracks = 300
    config.model.width = 16
    config.model.num_heads = 2
    config.model.feedforward_width = 16
    config.sampling.num_negatives = 50
    config.train.batch_size = 32
    config.train.num_epochs = 2
    config.eval.num_candidates = 100
    config.eval.batch_size = 64
    return config
