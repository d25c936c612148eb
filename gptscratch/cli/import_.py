"""``gptscratch import``: a model of another program becomes a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from gptscratch.cli import options as o
from gptscratch.config.setting import RUN, TOKENIZER, setting
from gptscratch.units import count, plural

if TYPE_CHECKING:
    from gptscratch.interop.import_run import Imported

EXAMPLES = """Examples:
  gptscratch import models/SmolLM2-135M             a folder of Hugging Face
  gptscratch import hf:HuggingFaceTB/SmolLM2-135M   download it first
  gptscratch import out/ckpt.pt --tokenizer gpt2/   a model of nanoGPT
  gptscratch sample SmolLM2-135M -p "Once upon a time"
  gptscratch train my.txt --init-from SmolLM2-135M"""


@o.command()
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a GPT-2, Llama, Mistral or Qwen3 model in Hugging Face's format, a nanoGPT "
            "ckpt.pt, or hf:OWNER/MODEL to download it.",
        ),
    ],
    name: str | None = setting(None, RUN, "Name of the run.", default_is="that of the model"),
    force: bool = setting(False, RUN, "Overwrite an existing run of the same name."),
    tokenizer: str | None = setting(
        None, TOKENIZER, "tokenizer.json, or a folder with one.", metavar="PATH",
        default_is="that of the model's folder",
    ),
    json: bool = o.JSON,
) -> None:  # fmt: skip
    """Import a model that another program has trained, as a run.

    The run can be sampled from, scored, fine-tuned (train --init-from) and exported again. What gptscratch
    cannot represent is refused by its name.
    """
    from gptscratch.cli.console import err, show
    from gptscratch.interop.import_run import import_run

    with err.status("importing ..."):
        imported = import_run(source, name=name, tokenizer=tokenizer, replace=force)
    values = dataclasses.asdict(imported) | {"run": imported.run.name, "folder": imported.run}
    show(values, _lines(imported), json=json)


def as_run(source: str) -> str:
    """For ``--init-from``: a model of another program as a run, made now or before."""
    from gptscratch.cli.console import err, notice
    from gptscratch.interop.import_run import free_name, import_run, imported_before, is_foreign

    if not is_foreign(source):
        return source
    run = imported_before(source)
    if run is None:
        with err.status("importing ..."):
            run = import_run(source, name=free_name(source)).run
        notice(f"{source} was imported as the run {run.name}.")
    return run.name


def _lines(imported: Imported) -> list[tuple[str, str]]:
    model, name = imported.model, imported.run.name
    heads = plural(model.n_head, "head")
    if model.n_kv_head != model.n_head:
        heads += f" on {plural(model.n_kv_head, 'key-value head')}"
    lines = [
        ("imported", f"{imported.source}, a {imported.model_type} model"),
        ("model", f"{count(imported.parameters)} parameters in {imported.dtype}: "
                  f"{plural(model.n_layer, 'layer')}, d_model {model.d_model}, {heads}, "
                  f"context {model.context_length:,}"),
        ("tokenizer", f"{imported.tokenizer} with {imported.entries:,} entries"),
        ("run", str(imported.run)),
        ("next", f'gptscratch sample {name} --prompt "..."'),
        ("", f"gptscratch train CORPUS --init-from {name}"),
    ]  # fmt: skip
    if imported.entries < model.vocab_size:
        unused = f"; {model.vocab_size - imported.entries:,} ids of the model have no token"
        lines[2] = ("tokenizer", lines[2][1] + unused)
    return lines
