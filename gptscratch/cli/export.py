"""``gptscratch export``: a run in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gptscratch.cli import options as o
from gptscratch.units import count, size

EXAMPLES = """Examples:
  gptscratch export tales                  for Transformers, in tales-hf
  gptscratch export tales --dtype bfloat16 --out tales-bf16
  gptscratch export tales --format gguf    for llama.cpp and Ollama"""


def export(
    run: Annotated[str | None, o.Run] = None,
    format: Annotated[
        str,
        o.option(
            "--format",
            help="hf (Hugging Face Transformers), peft (LoRA adapters) or gguf (llama.cpp, Ollama; "
            "default: hf).",
            metavar="NAME",
        ),
    ] = "hf",
    out: Annotated[
        Path | None,
        o.option("--out", help="New folder (default: RUN-FORMAT in the current folder).", metavar="DIR"),
    ] = None,
    dtype: Annotated[
        str | None,
        o.option(
            "--dtype",
            help="With hf or peft, number format: float32 (default), bfloat16 or float16.",
            metavar="NAME",
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        o.option(
            "--quantize",
            help="With gguf, number format of the matrices: f32, f16, bf16, q8_0 or q4_0 (default: f32).",
            metavar="NAME",
        ),
    ] = None,
    merge: Annotated[
        bool, o.option("--merge", help="Merge the LoRA adapters of the run into its weights.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Export a run for other programs.

    The best checkpoint of the run is written to a new folder, which Transformers, llama.cpp or Ollama load
    without further changes.
    """
    from gptscratch.cli import console
    from gptscratch.interop.export import export as export_

    exported = export_(run, out, format=format, dtype=dtype, quantize=quantize, merge=merge)
    model = f"{exported.architecture} in {exported.dtype}, {count(exported.parameters)} parameters"
    files = [f"{name} ({size(number)})" for name, number in exported.files.items()]
    lines = [
        ("run", f"{exported.run}, {exported.checkpoint}"),
        ("model", model),
        ("files", ", ".join(files)),
        ("folder", exported.folder),
    ]
    console.show(exported, lines, json=json)
