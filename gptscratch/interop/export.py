"""Trained models in the formats of other programs: ``export("tales", "tales-hf")``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gptscratch import paths
from gptscratch.errors import did_you_mean, disk_errors, require
from gptscratch.files import new_folder
from gptscratch.interop import gguf_export, hf_export, onnx_export, peft_export
from gptscratch.interop.source import Source
from gptscratch.sizing import count_parameters


class Format(NamedTuple):
    """A format of another program."""

    architecture: Callable[[Source], str]  # its name; an error where the format cannot represent the model
    write: Callable[[Source, Path, str], None]  # the files, into a folder, in a number format
    option: str  # by which the number format is chosen
    dtypes: tuple[str, ...]  # the first is the default


FORMATS: Mapping[str, Format] = {
    "hf": Format(hf_export.architecture, hf_export.write, "--dtype", hf_export.DTYPES),
    "peft": Format(peft_export.architecture, peft_export.write, "--dtype", hf_export.DTYPES),
    "gguf": Format(gguf_export.architecture, gguf_export.write, "--quantize", gguf_export.DTYPES),
    "onnx": Format(onnx_export.architecture, onnx_export.write, "--dtype", onnx_export.DTYPES),
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export."""

    run: str
    checkpoint: str
    folder: str
    format: str
    architecture: str  # as the other program calls it
    dtype: str
    parameters: int
    files: Mapping[str, int]  # name to bytes


def export(
    run: str | Path | None = None,
    folder: str | Path | None = None,
    *,
    format: str = "hf",
    dtype: str | None = None,
    quantize: str | None = None,
    merge: bool = False,
) -> Exported:
    """Write a new folder with a run's best checkpoint in another format. It is complete or absent.

    Args:
        run: a run's name, or the folder of a run or checkpoint; None: the newest run.
        folder: must not exist; None: ``<run>-<format>`` in the current folder.
        dtype: for hf and peft: float32 (default), bfloat16 or float16.
        quantize: for gguf: f32 (default), f16, bf16, q8_0 or q4_0.
        merge: merge LoRA adapters into the weights.

    Raises:
        ConfigError: the folder exists, an option is unknown, or the format cannot represent the model.
        CheckpointError: the run is missing or damaged.
        TokenizerError: the format cannot represent the tokenizer.
        MissingExtraError: gguf without the package gguf.
        RunError: the disk is full or cannot be written to.
    """
    _require_choice("--format", format, FORMATS)
    kind = FORMATS[format]
    given = {"--dtype": dtype, "--quantize": quantize}
    for option, value in given.items():
        require(
            value is None or option == kind.option,
            f"{option} has no effect with --format {format}.",
            f"Take {kind.option}: {', '.join(kind.dtypes)}.",
        )
    chosen = given[kind.option] or kind.dtypes[0]
    _require_choice(kind.option, chosen, kind.dtypes)
    source = Source.load(run)
    _check_adapters(source, format, merge)
    target = paths.expanded(folder or f"{source.name}-{format}")
    require(not target.exists(), f"{target} exists already.", "Choose a new folder with --out DIR.")
    architecture = kind.architecture(source)
    with disk_errors(f"writing {target}"), new_folder(target) as temporary:
        kind.write(source, temporary, chosen)
    return Exported(
        run=source.name,
        checkpoint=source.checkpoint.name,
        folder=str(target),
        format=format,
        architecture=architecture,
        dtype=chosen,
        parameters=count_parameters(source.config).total,
        files={
            str(file.relative_to(target)): file.stat().st_size
            for file in sorted(target.rglob("*"))
            if file.is_file()
        },
    )


def _check_adapters(source: Source, format: str, merge: bool) -> None:
    has_adapters = source.record.base is not None
    require(
        has_adapters or not merge, f"--merge has no effect: {source.name} has no adapters.", "Leave it out."
    )
    require(
        not has_adapters or merge != (format == "peft"),
        f"{source.name} has LoRA adapters: they are merged into the weights, or stored alone.",
        "Give --merge, or --format peft without it.",
    )


def _require_choice(option: str, value: str, choices: Iterable[str]) -> None:
    names = [*choices]
    require(
        value in names,
        f"{option} is {value!r}: it must be one of {', '.join(names)}.",
        did_you_mean(value, names),
    )
