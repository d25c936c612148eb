"""Downloads a model from the Hugging Face hub, because the user asked for it by ``hf:``."""

from __future__ import annotations

from pathlib import Path

from gptscratch.errors import ConfigError, MissingExtraError, RunError, require

_FILES = [
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
]  # fmt: skip


def download(name: str) -> Path:
    """A folder with the files of ``owner/model`` or ``owner/model@revision``, in huggingface_hub's cache.

    The environment variables of huggingface_hub count, such as HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.

    Raises:
        ConfigError: there is no such model, or it may not be read.
        RunError: the connection failed.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface-hub", "hub") from None
    model, _, revision = name.partition("@")
    require(
        model.count("/") == 1 and all(model.split("/")),
        f"{model!r} is not the name of a model on the hub.",
        "As in hf:HuggingFaceTB/SmolLM2-135M",
    )
    try:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=_FILES))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"The hub has no model {name} that can be read.",
            f"Is the name right? A model that needs a license or a login needs HF_TOKEN. ({_line(error)})",
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise RunError(f"The download of {name} failed: {_line(error)}.", "Try again later.") from None


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
