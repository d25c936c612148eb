"""Token files that are there already: made before from the same text, or named as the corpus itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from gptscratch import paths
from gptscratch.config import DataConfig
from gptscratch.data.corpus import Scan
from gptscratch.data.token_files import Manifest, Tokens, open_tokens, read_manifest
from gptscratch.data.writer import PART, UNFINISHED, is_ours, read_unfinished
from gptscratch.errors import CorpusError, UserError
from gptscratch.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """What training needs of a corpus."""

    folder: Path
    tokenizer: Tokenizer
    tokens: Tokens
    manifest: Manifest
    scan: Scan | None  # None: the files were known by their times, and not read
    reused: bool  # the token files were there already


def token_folder(config: DataConfig) -> Path | None:
    """The folder of token files that is the whole corpus, if that is what it is."""
    folders = [Path(item).expanduser() for item in config.corpus]
    ours = [f for f in folders if os.path.isfile(f / "manifest.json") and any(f.glob("*.bin"))]  # noqa: PTH113 - a long name is False
    if ours and len(folders) > 1:
        raise CorpusError(
            f"{ours[0]} holds token files, which cannot be joined with other corpora.", "Name it alone."
        )
    return ours[0] if ours else None


def as_it_is(folder: Path, config: DataConfig, loaded: Tokenizer | None, out: Path | None) -> Prepared:
    """Raises CorpusError where something is asked for that was decided when the tokens were made."""
    hint = "Leave it out, or name the text that the tokens came from."
    if out is not None and out.resolve() != folder.resolve():
        raise CorpusError(f"{folder} holds token files already: there is nothing to tokenize.", hint)
    if not (folder / "tokenizer.json").is_file():
        raise CorpusError(f"{folder} is damaged: it has no tokenizer.json.")
    found = reused(open_tokens(folder), None)
    if found.tokenizer.hash != found.manifest.tokenizer_hash:
        raise CorpusError(
            f"{folder} is damaged: its tokenizer.json is not the one its tokens were made with."
        )
    same = loaded is not None and loaded.hash == found.manifest.tokenizer_hash
    settled = {"corpus", "tokenizer"} if same else {"corpus"}
    asked = [
        f"{field.name} = {getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in settled and getattr(config, field.name) != field.default
    ]
    if asked:
        raise CorpusError(f"{folder} holds tokens, made already: {', '.join(asked)} has no effect.", hint)
    return found


def find_tokens(out: Path | None, **wanted: str) -> Tokens | None:
    """Whole token files whose manifest says what is wanted; a damaged folder is as good as none."""
    folders = [out] if out else sorted(file.parent for file in paths.tokens_dir().glob("*/manifest.json"))
    for folder in folders:
        with contextlib.suppress(UserError):
            manifest = read_manifest(folder)
            if all(getattr(manifest, name) == value for name, value in wanted.items()):
                tokens = open_tokens(folder)
                if (folder / "tokenizer.json").is_file():
                    return tokens
    return None


def unfinished_tokenizer(out: Path | None, recipe: str) -> Tokenizer | None:
    """The tokenizer that an interrupted call had made already."""
    folders = [out] if out else sorted(file.parent for file in paths.tokens_dir().glob(f"*/{UNFINISHED}"))
    for folder in folders:
        state = read_unfinished(folder)
        if state is not None and state.recipe == recipe:
            with contextlib.suppress(UserError):
                return Tokenizer.load(folder / f"tokenizer.json{PART}")
    return None


def reused(tokens: Tokens, scan: Scan | None) -> Prepared:
    tokenizer = Tokenizer.load(tokens.folder)
    return Prepared(tokens.folder, tokenizer, tokens, tokens.manifest, scan, True)


def require_ours(out: Path) -> None:
    if out.is_file():
        raise CorpusError(f"{out} is a file: a folder is needed.")
    names = [file.name for file in out.iterdir()] if out.is_dir() else []
    strange = [name for name in names if not is_ours(name)]
    if strange:
        raise CorpusError(
            f"{out} holds other files ({strange[0]}).", "Name a new or empty folder with --out."
        )
