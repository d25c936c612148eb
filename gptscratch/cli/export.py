"""``gptscratch export``: a run in the format of another program."""

from __future__ import annotations

from typing import Annotated

from gptscratch.cli import options as o
from gptscratch.config.setting import OUTPUT, setting
from gptscratch.units import count, size

EXAMPLES = """Examples:
  gptscratch export tales                  for Transformers, in tales-hf
  gptscratch export tales --dtype bfloat16 --out tales-bf16
  gptscratch export tales --format gguf    for llama.cpp and Ollama"""


@o.command()
def export(
    run: Annotated[str | None, o.Run] = None,
    format: str = setting(
        "hf",
        OUTPUT,
        "hf (Hugging Face Transformers), gguf (llama.cpp, Ollama), onnx, or peft (LoRA adapters).",
        choices=("hf", "gguf", "onnx", "peft"),
    ),
    out: str | None = setting(
        None, OUTPUT, "New folder.", metavar="DIR", default_is="RUN-FORMAT in the current folder"
    ),
    dtype: str | None = setting(
        None,
        OUTPUT,
        "With hf or peft, number format: float32, bfloat16 or float16.",
        metavar="NAME",
        default_is="float32",
    ),
    quantize: str | None = setting(
        None,
        OUTPUT,
        "With gguf, number format of the matrices: f32, f16, bf16, q8_0 or q4_0.",
        metavar="NAME",
        default_is="f32",
    ),
    merge: bool = setting(False, OUTPUT, "Merge the LoRA adapters of the run into its weights."),
    json: bool = o.JSON,
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
