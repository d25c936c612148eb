"""The options that commands share, each once: its flags, its help and its group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gptscratch.config import (
    ACTIVATIONS,
    CLEAN,
    DEVICES,
    DTYPES,
    NORMS,
    OPTIMIZERS,
    POSITIONS,
    SCHEDULES,
    SECTIONS,
    flattened,
    is_setting,
    qualified,
    read_json,
)
from gptscratch.errors import ConfigError
from gptscratch.presets import preset_settings

TEXT, TOKENS, MODEL, HORIZON, OPTIMISATION, RUN, MACHINE = (
    "Text", "Tokenizer", "Model", "Horizon (one of)", "Optimisation", "Run", "Machine"
)  # fmt: skip


def _option(*flags: str, help: str, panel: str | None = None, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(
        *flags, help=plain(help), rich_help_panel=panel, metavar=metavar, show_default=False, **more
    )


def plain(help: str) -> str:
    """A help text whose brackets are shown: rich takes ``[utf-8]`` for markup and drops it."""
    return help.replace("[", r"\[")


def _choice(names: Sequence[str]) -> str:
    return "|".join(names)


Corpus = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders, glob patterns, or - for stdin: text, .jsonl, .csv, .tsv, each also as .gz or "
        ".zst, and .parquet; as FILE=WEIGHT, mixed by weight. Without any: Python's own library source.",
        show_default=False,
    ),
]
Glob = Annotated[str | None, _option("--glob", help="Which files of a folder.", panel=TEXT)]
Column = Annotated[
    str | None, _option("--text-column", help="Of a jsonl, csv, tsv or parquet [text].", panel=TEXT)
]
Separator = Annotated[
    str | None, _option("--separator", help="Between documents of a file [<|endoftext|>].", panel=TEXT)
]
Encoding = Annotated[
    str | None, _option("--encoding", help="Of the files; auto guesses [utf-8].", panel=TEXT)
]
Errors = Annotated[
    str | None,
    _option(
        "--encoding-errors", help="At bytes that are no text [strict].", panel=TEXT, metavar="strict|replace"
    ),
]

Clean = Annotated[
    list[str] | None,
    _option(
        "--clean",
        help="A cleaning step, in the order given (repeatable).",
        panel=TEXT,
        metavar=_choice(CLEAN),
    ),
]
ValFraction = Annotated[
    float | None,
    _option("--val-fraction", help="Of the text, held back for validation [0.1, at most 20 MB].", panel=TEXT),
]
ValFile = Annotated[
    str | None, _option("--val-file", help="Validate on this text, hold nothing back.", panel=TEXT)
]

TokenizerKind = Annotated[
    str | None,
    _option(
        "--tokenizer",
        help="Its kind, or a file or run with one.",
        panel=TOKENS,
        metavar="char|byte|word|bpe|PATH",
    ),
]
VocabSize = Annotated[int | None, _option("--vocab-size", help="Entries wanted.", panel=TOKENS, min=1)]
Lowercase = Annotated[bool | None, _option("--lowercase", help="Fold the text to lower case.", panel=TOKENS)]
MinFrequency = Annotated[
    int | None, _option("--min-frequency", help="A word seen less often is unknown [2].", panel=TOKENS, min=1)
]

Device = Annotated[
    str | None, _option("--device", help="Where to compute.", panel=MACHINE, metavar=_choice(DEVICES))
]
Dtype = Annotated[
    str | None, _option("--dtype", help="Of the matrix products.", panel=MACHINE, metavar=_choice(DTYPES))
]
Quantize = Annotated[
    str | None, typer.Option("--quantize", help="Smaller weights, on a CPU.", metavar="float16|int8|int4")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Preset = Annotated[str | None, _option("--preset", help="A named size; see: gptscratch info.", panel=MODEL)]
Layers = Annotated[int | None, _option("--layers", help="Blocks.", panel=MODEL, min=1)]
Heads = Annotated[int | None, _option("--heads", help="Query heads.", panel=MODEL, min=1)]
KvHeads = Annotated[int | None, _option("--kv-heads", help="Key-value heads.", panel=MODEL, min=1)]
DModel = Annotated[int | None, _option("--d-model", help="Width.", panel=MODEL, min=1)]
DFf = Annotated[int | None, _option("--d-ff", help="Width of the MLP.", panel=MODEL, min=1)]
ContextLength = Annotated[
    int | None, _option("--context-length", help="Most tokens seen at once.", panel=MODEL, min=1)
]
Dropout = Annotated[float | None, _option("--dropout", help="Probability.", panel=MODEL)]
Position = Annotated[
    str | None, _option("--position", help="Kind of positions.", panel=MODEL, metavar=_choice(POSITIONS))
]
Norm = Annotated[str | None, _option("--norm", help="Kind of norm.", panel=MODEL, metavar=_choice(NORMS))]
Activation = Annotated[
    str | None, _option("--activation", help="Of the MLP.", panel=MODEL, metavar=_choice(ACTIVATIONS))
]
QkNorm = Annotated[
    bool | None, _option("--qk-norm/--no-qk-norm", help="Norms on queries and keys.", panel=MODEL)
]
Bias = Annotated[bool | None, _option("--bias/--no-bias", help="Biases.", panel=MODEL)]
TieEmbeddings = Annotated[
    bool | None,
    _option("--tie-embeddings/--no-tie-embeddings", help="One matrix for input and output.", panel=MODEL),
]

OutputBias = Annotated[
    bool | None,
    _option("--output-bias/--no-output-bias", help="A bias at lm_head, from frequencies.", panel=MODEL),
]
AdaptiveCutoffs = Annotated[
    list[int] | None,
    _option(
        "--adaptive-cutoffs",
        help="Where a part of an adaptive softmax begins (repeatable).",
        panel=MODEL,
        min=1,
    ),
]

Steps = Annotated[int | None, _option("--steps", help="Optimizer updates.", panel=HORIZON, min=1)]
Epochs = Annotated[float | None, _option("--epochs", help="Passes over the corpus.", panel=HORIZON)]
Tokens = Annotated[int | None, _option("--tokens", help="Tokens seen.", panel=HORIZON, min=1)]
Minutes = Annotated[float | None, _option("--minutes", help="Of the whole command [5].", panel=HORIZON)]
Hours = Annotated[float | None, _option("--hours", help="The same in hours.", panel=HORIZON)]

MaskDocuments = Annotated[
    bool,
    typer.Option("--mask-documents", help="No document of a row sees another.", rich_help_panel=TEXT),
]
PadDocuments = Annotated[
    bool,
    typer.Option(
        "--pad-documents",
        help="One document a row, padded; a longer one takes more rows.",
        rich_help_panel=TEXT,
    ),
]

BatchSize = Annotated[
    int | None, _option("--batch-size", help="Sequences a step.", panel=OPTIMISATION, min=1)
]
MicroBatch = Annotated[
    int | None, _option("--micro-batch-size", help="Sequences a forward pass.", panel=OPTIMISATION, min=1)
]
LearningRate = Annotated[float | None, _option("--learning-rate", help="Peak rate.", panel=OPTIMISATION)]
WeightDecay = Annotated[float | None, _option("--weight-decay", help="Decoupled.", panel=OPTIMISATION)]
GradClip = Annotated[
    float | None, _option("--grad-clip", help="Largest gradient norm [1]; 0: any.", panel=OPTIMISATION)
]
Warmup = Annotated[int | None, _option("--warmup-steps", help="Steps of rise.", panel=OPTIMISATION, min=0)]
OptimizerName = Annotated[
    str | None, _option("--optimizer", help="[muon]", panel=OPTIMISATION, metavar=_choice(OPTIMIZERS))
]
ScheduleName = Annotated[
    str | None,
    _option("--lr-schedule", help="Of the rate [wsd].", panel=OPTIMISATION, metavar=_choice(SCHEDULES)),
]

EvalInterval = Annotated[
    int | None, _option("--eval-interval", help="Steps between evaluations.", panel=RUN, min=1)
]
SaveInterval = Annotated[
    int | None, _option("--save-interval", help="Steps between checkpoints.", panel=RUN, min=1)
]
SampleInterval = Annotated[
    int | None, _option("--sample-interval", help="Steps between samples; 0: none.", panel=RUN, min=0)
]
Keep = Annotated[
    int | None, _option("--keep-checkpoints", help="Newest checkpoints kept [2].", panel=RUN, min=1)
]
Patience = Annotated[
    int | None, _option("--patience", help="Evaluations without a better one, then stop.", panel=RUN, min=0)
]
Seed = Annotated[int | None, _option("--seed", help="Of everything random.", panel=RUN)]
Compile = Annotated[bool | None, _option("--compile/--no-compile", help="torch.compile.", panel=MACHINE)]
ConfigFile = Annotated[str | None, _option("--config", help="Settings from a JSON file.", panel=RUN)]
Set = Annotated[
    list[str] | None,
    _option("--set", help="Any setting by name (repeatable).", panel=RUN, metavar="KEY=VALUE"),
]


def settings_of(
    options: Mapping[str, Any],
    *,
    preset: str | None = None,
    config: str | None = None,
    pairs: Sequence[str] = (),
) -> dict[str, Any]:
    """What was given, as settings by name: a preset, over it a config file, the options, ``--set``."""
    settings: dict[str, Any] = preset_settings(preset) if preset else {}
    given = {_NAMES.get(key, key): value for key, value in options.items() if value is not None}
    given = qualified({key: value for key, value in given.items() if is_setting(key)})
    for unit in ("epochs", "minutes", "hours"):
        number = options.get(unit)
        if number is not None and not 0.0 < number < math.inf:
            raise ConfigError(f"--{unit} is {number:g}: it must be above 0 and finite.")
    hours = options.get("hours")
    if hours is not None:
        if "train.minutes" in given:
            raise ConfigError("--minutes and --hours are both given.", "Give one of them.")
        given["train.minutes"] = 60.0 * hours
    if config:
        file = qualified(flattened(_settings_file(Path(config))))
        if HORIZONS & given.keys():
            file = {key: value for key, value in file.items() if key not in HORIZONS}
        settings.update(file)
    settings.update(given)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair}: a name and a value are needed.", "As in --set rope_theta=50000")
        settings.update(qualified({key.strip(): value}))
    return settings


def documents_of(mask: bool, pad: bool) -> str | None:
    """How documents come into rows, if it is given.

    Raises:
        ConfigError: it is given twice.
    """
    if mask and pad:
        raise ConfigError(
            "--mask-documents and --pad-documents exclude one another.",
            "Rows either hold several documents, blind to one another, or one.",
        )
    return "masked" if mask else "padded" if pad else None


_NAMES = {"vocab_size": "data.vocab_size"}  # on the command line it is the tokenizer's


HORIZONS = {"train.steps", "train.epochs", "train.tokens", "train.minutes", "train.max_steps"}


def _settings_file(path: Path) -> dict[str, Any]:
    """Settings in sections or by bare names, or a run's config.json, of which the sections count."""
    values = read_json(path)
    if "format" in values:
        return {key: value for key, value in values.items() if key in SECTIONS}
    return values
