"""Reading a corpus: files, formats, encodings, documents, chunks, and the errors for bad input."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gptscratch.config import DataConfig
from gptscratch.data.chunks import END, ReadCounts, Sizes, texts_of
from gptscratch.data.corpus import Corpus, Survey, survey
from gptscratch.data.split import SplitPlan, chosen_fraction
from gptscratch.errors import CorpusError, MissingExtraError
from gptscratch.tokenizer import Tokenizer, build_tokenizer, bulk_encoder


def documents(*corpus: Path | str, sizes: Sizes | None = None, **settings: object) -> list[str]:
    found, parts = [], []
    for text, ends in chunks(*corpus, sizes=sizes, **settings):
        parts.append(text)
        if ends:
            found.append("".join(parts))
            parts = []
    assert not parts
    return found


def chunks(*corpus: Path | str, sizes: Sizes | None = None, **settings: object) -> list[tuple[str, bool]]:
    """Each text, and whether its document ends with it."""
    with opened(*corpus, sizes=sizes, **settings) as corpus_:
        found = [texts_of(chunk.data) for chunk in corpus_.chunks(ReadCounts())]
        return [pair for texts, ends in found for pair in zip(texts, ends, strict=True)]


def opened(*corpus: Path | str, sizes: Sizes | None = None, **settings: object) -> Corpus:
    return Corpus(DataConfig(corpus=tuple(map(str, corpus)), **settings), sizes=sizes)  # type: ignore[arg-type]


def scanned(*corpus: Path | str, sizes: Sizes | None = None, **settings: object) -> Survey:
    with opened(*corpus, sizes=sizes, **settings) as corpus_:
        return survey(corpus_)


def written(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_plain_file_is_one_document(tmp_path: Path) -> None:
    assert documents(written(tmp_path / "a.weird", "one\ntwo\n")) == ["one\ntwo\n"]


def test_each_file_of_a_folder_is_a_document_in_sorted_order(tmp_path: Path) -> None:
    for name, data in {
        "b.txt": "b",
        "a/z.md": "z",
        ".hidden": "h",
        ".git/x": "x",
        "c.bin": b"\0\1" * 99,
    }.items():
        written(tmp_path / name, data)
    written(tmp_path / "empty.txt", "")
    assert documents(tmp_path) == ["b", "z"]
    assert documents(tmp_path, glob="*.md") == ["z"]
    assert documents(tmp_path / "*.txt") == ["b"]
    assert scanned(tmp_path).counts.skipped == 1


def test_separators_split_and_take_one_line_end_along(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "one\n<|endoftext|>\ntwo\n\n<|endoftext|>\n\n<|endoftext|>")
    assert documents(file) == ["one", "two\n"]
    file = written(tmp_path / "b.txt", "one\n\ntwo\nlines\n\n\nthree")
    assert documents(file, separator="\\n\\n") == ["one", "two\nlines", "\nthree"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_chunk_borders_change_nothing(chunk: int, tmp_path: Path) -> None:
    text = "a\r\n\r\rb é😀\n\r<|endoftext|>\r\nc <|endoftext|d\r"
    file = written(tmp_path / "a.txt", text)
    assert documents(file, sizes=Sizes(chunk=chunk)) == ["a\n\n\nb é😀\n", "c <|endoftext|d\n"]


def test_chunks_join_to_the_documents(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(5):
        texts = ["".join(rng.choices("ab \n\t.", k=rng.randrange(1, 400))) + "." for _ in range(20)]
        file = written(tmp_path / "a.txt", "<|endoftext|>".join(texts))
        sizes = Sizes(chunk=16)
        assert documents(file, sizes=sizes) == documents(file)
        assert max(len(text) for text, _ in chunks(file, sizes=sizes)) < 100


def test_chunks_have_the_ids_of_the_whole_text(tmp_path: Path) -> None:
    text = "The  cat's\n\n  mat, 123 456!\n\tfoo -- bar\r\n   end. Привет, мир 👍🏽 x\n" * 20
    tokenizer = Tokenizer(build_tokenizer("bpe", [text], alphabet="", vocab_size=400))
    file = written(tmp_path / "a.txt", text)
    texts = [text for text, _ in chunks(file, sizes=Sizes(chunk=32))]
    assert len(texts) > 10
    ids = [int(i) for part in bulk_encoder(tokenizer)(texts) for i in part]
    assert ids == tokenizer.encode(text.replace("\r\n", "\n"))


def test_text_without_any_space_is_divided_anyway(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "x" * 1000)
    assert max(len(text) for text, _ in chunks(file, sizes=Sizes(chunk=32))) <= 64


ENCODED = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODED)
def test_byte_order_marks_win_over_the_encoding(encoding: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "schön\r\nж😀".encode(encoding))
    assert documents(file, encoding="latin-1") == ["schön\nж😀"]


@pytest.mark.parametrize("encoding", ["latin-1", "shift_jis", "utf-16-be"])
def test_an_encoding_is_used_where_it_is_named(encoding: str, tmp_path: Path) -> None:
    text = "吾輩は猫" if encoding == "shift_jis" else "schön"
    assert documents(written(tmp_path / "a.txt", text.encode(encoding)), encoding=encoding) == [text]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz", "a.csv.gz", "a.txt.gz"])
def test_formats_and_their_gzip(name: str, tmp_path: Path) -> None:
    rows = ["one, two", 'a "quoted"\nline', "té"]
    out = io.StringIO()
    if "jsonl" in name:
        out.write("\n".join(json.dumps({"n": 1, "text": row}) for row in rows))
    elif "txt" in name:
        out.write("<|endoftext|>".join(rows))
    else:
        writer = csv.writer(out, delimiter="\t" if "tsv" in name else ",")
        writer.writerows([["n", "text"], *([1, row] for row in rows)])
    data = out.getvalue().encode()
    file = written(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
    assert documents(file) == rows


def test_a_csv_field_may_have_any_size(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "word " * 100_000
    assert documents(written(tmp_path / "a.csv", f'x,text\n1,"{long}"\n')) == [long]
    assert csv.field_size_limit() == limit


def test_blank_lines_before_the_header_of_a_table_are_passed_over(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "\n \nid;text\n1;one\n\n2;two\n")
    assert documents(file) == ["one", "two"]
    assert documents(file, text_column="id") == ["1", "2"]
    file = written(tmp_path / "a.csv", '\n\ntext\n"' + "x\n" * 600)  # without the second quotation mark
    with pytest.raises(CorpusError, match="line 504"):
        documents(file, sizes=Sizes(longest=1000))


def test_a_table_may_have_bars_between_its_columns_and_spaces_around_their_names(tmp_path: Path) -> None:
    assert documents(written(tmp_path / "a.csv", "id|text\n1|one\n2|two, too\n")) == ["one", "two, too"]
    file = written(tmp_path / "b.csv", "id, text , body\n1,one,first\n")
    assert documents(file) == ["one"]
    assert documents(file, text_column="body") == ["first"]


def test_a_row_of_json_without_the_column_is_left_out_like_null(tmp_path: Path) -> None:
    rows = '{"id": 1, "text": "one"}\n{"id": 2}\n{"text": null}\n{"text": "two"}\n'
    assert documents(written(tmp_path / "a.jsonl", rows)) == ["one", "two"]


def test_the_only_name_in_the_first_row_of_json_is_the_column(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", '{"body": "one"}\n{"id": 2, "body": "two"}\n')
    assert documents(file) == ["one", "two"]


def test_a_name_that_begins_with_a_tilde_may_be_that_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "~notes.txt", "text")
    assert documents("~notes.txt") == ["text"]
    with pytest.raises(CorpusError, match=r"~other\.txt does not exist"):
        documents("~other.txt")


def test_half_a_surrogate_pair_in_json_is_replaced(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", r'{"text": "a\ud800b \ud83d\ude00"}')
    assert documents(file) == ["a\ufffdb 😀"]


def test_stdin_and_pipes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("von außen".encode())))
    with Corpus(DataConfig(corpus=("-",))) as corpus:
        passes = [[chunk.data for chunk in corpus.chunks(ReadCounts())] for _ in range(2)]
        assert passes == [["von außen".encode() + END]] * 2
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_text, args=("through",))
    thread.start()
    assert documents(tmp_path / "pipe") == ["through"]
    thread.join()


class Slow(io.RawIOBase):
    """A pipe that gives two letters at a time."""

    def __init__(self) -> None:
        self.rest = b"abcdef"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        given, self.rest = self.rest[:2], self.rest[2:]
        buffer[: len(given)] = given
        return len(given)


def test_what_a_slow_pipe_gave_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Slow())))
    seen: list[int] = []
    with Corpus(DataConfig(corpus=("-",)), lambda _, done, __: seen.append(done)) as corpus:
        assert [chunk.data for chunk in corpus.chunks(ReadCounts())] == [b"abcdef" + END]
    assert seen == [2, 4, 6]


def test_without_a_corpus_pythons_language_reference_is_read() -> None:
    texts = documents()
    assert 400_000 < sum(map(len, texts)) < 1_000_000
    assert len(texts) > 50
    assert any("assert statement" in text.replace('"', "") for text in texts)


def test_without_the_language_reference_the_source_of_the_library_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    names = [source.name for source in Corpus(DataConfig()).sources]
    assert any(name.endswith("argparse.py") for name in names)
    assert not any("site-packages" in name or f"{os.sep}test{os.sep}" in name for name in names)


def test_scan_counts_and_hashes_the_text(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "añb\r\na")
    found = scanned(file)
    assert (found.documents, found.characters, found.bytes, found.alphabet) == (1, 5, 6, "\nabñ")
    assert found.hash == scanned(written(tmp_path / "b.txt", "añb\na")).hash
    assert found.hash != scanned(written(tmp_path / "c.txt", "añ<|endoftext|>b\na")).hash


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b"", "the corpus is empty"),
        ("a.txt", b" \n\t ", "the corpus is empty"),
        ("a.txt", b"abc\xff\xfe def", "not utf-8: byte 0xff at offset 3"),
        ("a.txt", b"x" * (1 << 20) + b"yz\xe9 caf\xe9", "offset 1,048,578"),
        ("a.txt", "schöne Grüße an alle Bären ".encode("latin-1") * 20, "--encoding cp1252"),
        ("a.txt", "é ö ü ".encode() + b"\xff", "--encoding-errors replace"),
        ("a.txt", bytes(range(256)) * 8, "looks like binary data"),
        ("a.txt", "plain text ".encode("utf-16-le"), "--encoding utf-16-le"),
        ("a.pdf", b"%PDF-1.7\n\xe2\xe3\xcf\xd3", "looks like a PDF"),
        ("a.csv", "review,label\ngood,1\n", "It has: review, label"),
        ("a.jsonl", '{"body": "x", "id": 1}\n', "It has: body, id"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: invalid JSON"),
        ("a.jsonl", '{"text": 5}\n', "line 1: 'text' is not text"),
        ("a.jsonl", "[1]\n", "line 1: a JSON object is expected"),
        ("a.jsonl", "[" * 100_000, "line 1: the JSON is nested too deep"),
        ("a.txt.gz", gzip.compress(b"abc" * 999, mtime=0)[:-9], "cannot be read to its end"),
    ],
)
def test_bad_input_is_named(name: str, data: bytes | str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=expected) as raised:
        scanned(written(tmp_path / name, data))
    assert str(raised.value).count("\n") == 0


def test_a_missing_file_gets_a_near_match(tmp_path: Path) -> None:
    written(tmp_path / "corpus.txt", "x")
    with pytest.raises(CorpusError, match=r"does not exist. Did you mean .*corpus\.txt"):
        scanned(tmp_path / "copus.txt")
    with pytest.raises(CorpusError, match="no file matches"):
        scanned(tmp_path / "*.md")
    with pytest.raises(CorpusError, match="holds no file"):
        scanned(tmp_path, glob="*.md")


def test_damaged_bytes_are_replaced_by_request(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", b"a\xffb")
    assert documents(file, encoding_errors="replace") == ["a\ufffdb"]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_replaced_characters_are_counted(chunk: int, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", b"a\xffb \xe2\x82 c\xc3")
    found = scanned(file, encoding_errors="replace", sizes=Sizes(chunk=chunk))
    assert found.counts.replaced == 3
    assert found.characters == len("a?b ? c?")


def test_zstd_is_unpacked(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    rows = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(1000))
    half = len(rows) // 2
    frames = [zstd.compress(part.encode()) for part in (rows[:half], rows[half:])]
    assert documents(written(tmp_path / "a.jsonl.zst", b"".join(frames)))[-1] == "row 999"
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        documents(written(tmp_path / "b.txt.zst", frames[0][:20] + b"x" * 40))


def test_parquet_columns_are_read(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": ["one", None, "two\r\nlines"], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == ["one", "two\nlines"]
    with pytest.raises(CorpusError, match="has no column 'body'"):
        documents(tmp_path / "a.parquet", text_column="body")
    with pytest.raises(CorpusError, match="does not hold text but int64"):
        documents(tmp_path / "a.parquet", text_column="n")
    with pytest.raises(CorpusError, match="Is it complete"):
        documents(written(tmp_path / "b.parquet", b"PAR1 and no more"))


def test_a_parquet_column_of_lists_or_structures_is_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": [["a", "b"]], "chat": [{"text": "hello"}]})
    parquet.write_table(table, tmp_path / "a.parquet")
    for column in ("text", "chat"):
        with pytest.raises(CorpusError, match=f"the column '{column}' does not hold text but (list|struct)"):
            documents(tmp_path / "a.parquet", text_column=column)


def test_parquet_text_may_be_a_dictionary_or_large(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = {"a": arrow.dictionary(arrow.int32(), arrow.string()), "b": arrow.large_string()}
    table = arrow.table({name: arrow.array(["ä", "ä", None]).cast(kind) for name, kind in kinds.items()})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", text_column="a") == ["ä", "ä"]
    assert documents(tmp_path / "a.parquet", text_column="b") == ["ä", "ä"]


def test_parquet_bytes_that_are_not_utf8_are_named_or_replaced(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    damaged = arrow.StringArray.from_buffers(
        2, arrow.py_buffer(b"\0\0\0\0\2\0\0\0\5\0\0\0"), arrow.py_buffer(b"okx\xffy")
    )
    parquet.write_table(arrow.table({"text": damaged}), tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError, match=r"row 2: .* not UTF-8: byte 0xff at offset 1\. --encoding-errors replace"
    ):
        documents(tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", encoding_errors="replace") == ["ok", "x\ufffdy"]
    assert scanned(tmp_path / "a.parquet", encoding_errors="replace").counts.replaced == 1


@pytest.mark.parametrize(("name", "row"), [("a.jsonl", '{"text": "%s"}'), ("a.csv", 'text\n"%s"\n')])
def test_a_line_or_field_without_end_is_refused_before_it_fills_the_memory(
    name: str, row: str, tmp_path: Path
) -> None:
    sizes = Sizes(longest=1000, chunk=64)
    file = written(tmp_path / name, row % ("x\n" * 2000 if name == "a.csv" else "x" * 2000))
    with pytest.raises(CorpusError, match="is longer than"):
        documents(file, sizes=sizes)
    assert documents(written(tmp_path / name, row % ("x" * 900)), sizes=sizes) == ["x" * 900]


@pytest.mark.parametrize("encoding", ["base64", "rot13", "zlib", "hex", "uu", "klingon", "a\0b", ""])
def test_what_is_not_an_encoding_of_text_is_refused(encoding: str, tmp_path: Path) -> None:
    for data in (b"text", b"\xef\xbb\xbftext"):
        with pytest.raises(CorpusError, match="not an encoding of text"):
            scanned(written(tmp_path / "a.txt", data), encoding=encoding)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-32", "punycode", "idna", "utf-7", "unicode_escape", "undefined"]
)
def test_text_of_another_encoding_is_one_clear_error(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.txt is not \w+.*--encoding"):
        scanned(written(tmp_path / "a.txt", b"+\xff\\x \xe9\xff caf\xe9 +\\"), encoding=encoding)


@pytest.mark.parametrize("encoding", ["unicode_escape", "raw_unicode_escape", "utf-7"])
def test_half_a_surrogate_pair_of_an_encoding_is_replaced(encoding: str, tmp_path: Path) -> None:
    data = b"a+2AA-b" if encoding == "utf-7" else b"a\\ud800b"
    assert documents(written(tmp_path / "a.txt", data), encoding=encoding) == ["a\ufffdb"]


def test_utf16_without_its_mark_names_the_order_of_bytes(tmp_path: Path) -> None:
    wide = written(tmp_path / "a.txt", "plain text ".encode("utf-16-be"))
    with pytest.raises(CorpusError, match="--encoding utf-16-be"):
        scanned(wide, encoding="utf-16")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_cannot_be_read_in_a_folder_is_passed_over_and_counted(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "text")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    found = scanned(tmp_path)
    assert (found.files, found.counts.skipped, found.alphabet) == (1, 3, "etx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_loop_of_links_and_a_device_are_named(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    with pytest.raises(CorpusError, match=r"loop\.txt cannot be read"):
        scanned(tmp_path / "loop.txt")
    with pytest.raises(CorpusError, match="is a device"):
        scanned("/dev/zero")
    with pytest.raises(CorpusError, match="cannot be read"):
        scanned("x" * 5000)


@pytest.mark.parametrize(
    ("name", "module"), [("a.parquet", "pyarrow.parquet"), ("a.txt.zst", "backports.zstd")]
)
def test_a_missing_package_names_its_extra(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"extra \[(parquet|zstd)\]"):
        documents(written(tmp_path / name, b"\x28\xb5\x2f\xfd and more"))


def test_without_its_extra_no_encoding_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    file = written(tmp_path / "a.txt", "schöne Grüße an alle Bären ".encode("latin-1"))
    with pytest.raises(MissingExtraError, match=r"extra \[encodings\]"):
        documents(file, encoding="auto")
    with pytest.raises(CorpusError, match=r"is not utf-8: byte 0xf6 at offset 3\. .*extra \[encodings\]"):
        documents(file)
    wide = written(tmp_path / "b.txt", "plain text ".encode("utf-16-le"))
    assert documents(wide, encoding="auto") == ["plain text "]
    with pytest.raises(CorpusError, match="binary data"):
        documents(written(tmp_path / "c.txt", bytes(100)), encoding="auto")


def test_a_named_file_that_vanishes_is_reported(tmp_path: Path) -> None:
    corpus = Corpus(DataConfig(corpus=(str(written(tmp_path / "a.txt", "text")),)))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"a\.txt cannot be read: No such file"):
        survey(corpus)


def test_a_file_of_a_folder_that_vanishes_is_passed_over_and_counted(tmp_path: Path) -> None:
    for name in "abc":
        written(tmp_path / f"{name}.txt", name)
    corpus = Corpus(DataConfig(corpus=(str(tmp_path),)))
    (tmp_path / "b.txt").unlink()
    found = survey(corpus)
    assert (found.alphabet, found.files, found.counts.skipped) == ("ac", 2, 1)


def test_encoding_auto_guesses_file_by_file(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "schön")
    written(tmp_path / "b.txt", "schöne Grüße an alle Bären. ".encode("latin-1"))
    assert documents(tmp_path, encoding="auto") == ["schön", "schöne Grüße an alle Bären. "]


def test_encoding_auto_takes_damaged_utf8_for_what_it_is(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "Größe und Läufe, schön".encode() + b" \xff. Ende")
    with pytest.raises(CorpusError, match=r"byte 0xff.*--encoding-errors replace"):
        documents(tmp_path, encoding="auto")
    assert documents(tmp_path, encoding="auto", encoding_errors="replace") == [
        "Größe und Läufe, schön \ufffd. Ende"
    ]


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'klingon' is not an encoding"):
        scanned(written(tmp_path / "a.txt", "x"), encoding="klingon")


@pytest.mark.parametrize(
    ("n_bytes", "n_documents", "share"),
    [
        (1_000_000, 1, 0.1),
        (10**9, 1, 0.02),
        (10**9, 10**6, 0.02),
        (10**11, 10**8, 0.0002),
        (10**11, 1000, 0.03),
        (10**11, 25, 0.1),
    ],
)
def test_a_tenth_is_held_out_but_of_a_large_corpus_20_megabytes(
    n_bytes: int, n_documents: int, share: float
) -> None:
    assert chosen_fraction(n_bytes, n_documents) == pytest.approx(share)


def test_the_share_is_that_of_the_split(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", b"to be or not to be, that is the question. " * 400)
    for given, wanted in ((None, 0.1), (0.25, 0.25)):
        with opened(file, val_fraction=given) as corpus:
            plan = survey(corpus).split
            held_out = sum(len(plan.parts(chunk)[1].strip(END)) for chunk in corpus.chunks(ReadCounts()))
        assert held_out == pytest.approx(wanted * 16_800, abs=1)


def test_documents_have_the_same_side_whatever_the_chunks(tmp_path: Path) -> None:
    texts = [f"document {i} " + "x " * (i * 7 % 90) for i in range(60)]
    file = written(tmp_path / "a.txt", "<|endoftext|>".join(texts))
    sides = []
    for size in (200, 300, 1 << 17):
        with opened(file, sizes=Sizes(chunk=size)) as corpus:
            plan = survey(corpus).split
            parts = zip(*(plan.parts(chunk) for chunk in corpus.chunks(ReadCounts())), strict=True)
            sides.append([b"".join(part) for part in parts])
    assert plan.kind == "documents"
    assert sides[0] == sides[1] == sides[2]
    assert sorted(b"".join(sides[0]).split(END)[:-1]) == sorted(text.encode() for text in texts)
    assert all(sides[0])


@pytest.mark.parametrize("number", range(20))
def test_the_share_held_out_is_about_the_one_asked_for(number: int, tmp_path: Path) -> None:
    texts = [f"{i} " + "text " * (380 if i == number else 5) for i in range(20)]  # one is 80 % of the text
    for documents_ in (texts, [texts[number - 1]] * 12 + [texts[number]] * 8):
        file = written(tmp_path / "a.txt", "<|endoftext|>".join(documents_))
        with opened(file, sizes=Sizes(chunk=200)) as corpus:
            plan = survey(corpus).split
            train, val = zip(*(plan.parts(chunk) for chunk in corpus.chunks(ReadCounts())), strict=True)
        assert 0.05 <= len(b"".join(val)) / len(b"".join((*train, *val))) <= 0.2


@pytest.mark.parametrize("border", [1, 3, 4, 5, 8])
def test_a_document_that_the_split_divides_ends_on_both_sides(border: int, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "é1<|endoftext|>two<|endoftext|>3456")
    plan = SplitPlan("tail", train_ends=(border,))
    with opened(file, sizes=Sizes(chunk=64)) as corpus:
        train, val = plan.parts(next(corpus.chunks(ReadCounts())))
    assert train.endswith(END)
    assert val.endswith(END)
    assert (train + val).replace(END, b"").decode() == "é1two3456"
    assert len(train.replace(END, b"").decode()) == border
    assert END + END not in train + val
