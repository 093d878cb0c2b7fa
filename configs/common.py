"""Every default, with its reason. The other configs hold only what they change.

Values are those of Seshadri & Knees 2023 (arXiv 2309.11623) or of the authors' public code unless
a comment says otherwise.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "common"  # names the default workdir, runs/<name>-<source>
    config.seed = 0  # of initialisation, batch order and every draw of training

    config.data = data = ConfigDict()
    # Or "mssd", "yambda", "lastfm", "spotify", "inter", "table", "prepared".
    data.source = "demo"
    data.path = ""  # a file, a folder or a glob; several with os.pathsep between them
    data.cache_dir = "runs/cache"  # where raw logs are prepared once
    data.num_sessions = 0  # a uniform sample of so many; 0 takes all
    data.min_length = 4  # two tracks to learn from, one to validate, one to test; by time, 2 do
    data.max_length = 20  # MSSD's longest session
    # A longer pause ends a session, 0: none does; -1 is the source's own: 30 for yambda, lastfm and
    # spotify, else 0.
    data.gap_minutes = -1.0
    data.on_bad_session = "error"  # or "drop": leaves out and lists sessions with a bad value
    data.min_plays = 1  # of a track, in all the data; rarer ones are taken out of their sessions
    # What counts as skipped: whatever one of these says of what the source logs.
    data.skip_levels = (1, 2)  # section 3: played very briefly or briefly
    data.skip_below_percent = 50.0  # of a track was played, or of its usual gap to the next play
    data.skip_dislikes = True
    data.skip_rating = 2.0  # or less, of five stars
    data.require_skip = False  # the authors' loader keeps only sessions with a skip
    # Or "temporal": of a log, what came last is what a service is asked for, and no session is
    # trained on that came after one of the test.
    data.split = "leave_one_out"
    data.labels = "logged"  # as controls, those of all training spans "shuffled" or "ignored"

    # For data.split = "temporal": the test has the sessions that start in the last hours of the
    # data, validation those in the hours before them. What ends within the gap before either is
    # left out, as it may be of the same listening.
    data.temporal = temporal = ConfigDict()
    temporal.test_hours = 24.0
    temporal.valid_hours = 24.0
    temporal.gap_minutes = 30.0  # the usual gap between two sessions

    # For data.source = "table": which column is what. '' means there is no such column. Of these,
    # "inter" takes time_unit and context_columns.
    data.table = table = ConfigDict()
    table.session_column = "session_id"
    table.track_column = "track_id"
    table.position_column = ""  # exactly one of these two gives the order
    table.time_column = ""
    table.time_unit = ""  # "s", "ms", "us" or "ns", of times that are whole numbers; '': not known
    table.level_column = ""  # at least one of these four tells of skips: 0 to 3,
    table.skip_column = ""  # yes and no (if there are no levels),
    table.rating_column = ""  # a number, see data.skip_rating,
    table.percent_column = ""  # share of the track that was played, see data.skip_below_percent
    table.context_columns = ()  # kept beside the events

    # For data.source = "demo": synthetic logs, so sized that a laptop is done in minutes.
    data.demo = demo = ConfigDict()
    demo.num_sessions = 4_000
    demo.num_tracks = 5_000
    demo.skip_share = 0.0  # 0: MSSD's own shares; 0.15 is what the paper reports
    demo.seed = 0

    config.model = model = ConfigDict()
    model.causal = True  # SASRec; False is BERT4Rec
    model.width = 128
    model.num_layers = 2
    model.num_heads = 8
    model.feedforward_width = 128
    model.dropout = 0.2
    model.activation = "relu"  # or "gelu"; the head is GELU in any case
    model.pre_norm = False
    model.skip_embedding = False  # tells the encoder which of the tracks it reads were skipped
    # The authors count from the start, where the last places of a test are never trained.
    model.positions = "from_end"  # or "absolute"
    model.init_stddev = 1.0  # cut at ±init_bound, so nearly uniform; 0.02 is BERT4Rec's
    model.init_bound = 0.02
    # "All parameters", says the paper; with gains that small the demo learns less (README).
    model.init_norms = False

    config.loss = loss = ConfigDict()
    loss.alpha = 0.0  # weight of InfoNCE, the skip term
    loss.beta = 1.0  # weight of the NLL
    loss.temperature = 0.1
    loss.context = "track"  # or "hidden": what is pulled and pushed
    loss.anchors = "all"  # or "played": which positions pull and push
    loss.negatives = "own"  # or "future", "shifted", "random", "batch"
    loss.polarity = "skipped"  # or "played": the labels inverted
    loss.target = "next"  # or "next_played": what the NLL predicts
    # The next two concern "next" alone: a next played target was never skipped.
    loss.skipped_target = "recommend"  # or "not_to_recommend": -log(1 - p) where it was skipped
    loss.skipped_weight = 1.0  # in the NLL, of a target that was skipped; 0 drops it
    # Skipped tracks as further negatives of the softmax; "full" has them all anyway.
    loss.skipped_negatives = False
    loss.cloze_fraction = 0.2  # of a session behind MASK (bidirectional)

    config.sampling = sampling = ConfigDict()
    sampling.num_negatives = 1_000
    # "batch" shares one draw among all sessions, far cheaper; "full" is the whole softmax.
    sampling.scope = "session"

    config.optimizer = optimizer = ConfigDict()
    # Of the paper's grid; with the authors' 0.005 the demo learns far less (README).
    optimizer.learning_rate = 0.001
    optimizer.warmup_steps = 0
    optimizer.decay = "constant"  # or "linear", "cosine": to 0 after train.num_epochs
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    # The track table's: "deferred" Adam is Adam, at the cost of the rows that a step reads. "dense"
    # goes through all of them, "lazy" forgets the momentum of those that are not read.
    optimizer.table = "deferred"
    optimizer.epsilon = 1e-8
    # The rows of rare tracks have tiny gradients, which 1e-8 would damp. Much below 1e-17, a
    # gradient whose square underflows would become a huge step; with much more, "deferred" is only
    # nearly Adam (skipjax/row_adam.py).
    optimizer.table_epsilon = 1e-17
    optimizer.weight_decay = 0.0
    optimizer.clip_norm = 0.0  # global norm; 0 does not clip

    config.train = train = ConfigDict()
    train.batch_size = 64
    train.num_epochs = 12
    train.patience = 3  # epochs without a better validation HR@10 before stopping
    train.log_every_steps = 20
    train.checkpoint_every_steps = 0  # besides the end of each epoch; 0 is never
    train.watchdog_seconds = 600.0  # without a step, and the process ends; compiling is not counted

    # The devices of all processes: sessions lie over all, and each table over `tracks` of them.
    # What is learnt does not depend on it.
    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # copies of the table; -1: as many as there are devices for
    mesh.tracks = 1  # devices that share one, each with as many of its rows

    config.eval = evaluation = ConfigDict()
    evaluation.seed = 0  # of the candidates: keep it, and runs stay comparable
    evaluation.num_candidates = 1_000
    evaluation.metrics = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr")
    evaluation.keep_top = 0  # recommended tracks to keep of each test session in sessions.parquet
    evaluation.batch_size = 256
    evaluation.chunk_size = 4_096  # catalogue rows scored at a time; a GPU likes more
    evaluation.precision = "float32"  # of scores; or "bfloat16", where more of them tie
    return config
