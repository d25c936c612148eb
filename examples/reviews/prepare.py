"""Splits a table of reviews 80/10/10 into train.jsonl, val.jsonl and test.jsonl.

python examples/reviews/prepare.py reviews.csv.gz FOLDER

HTML tags are removed and each review becomes one line. A hash of the text decides the part to which a review
belongs, so that equal reviews are in the same part.
"""

import csv
import gzip
import hashlib
import json
import sys
from pathlib import Path

from gptscratch.data.cleaning import strip_html


def side_of(review: str) -> str:
    place = int.from_bytes(hashlib.blake2b(review.encode(), digest_size=8).digest(), "big") / 2**64
    return "train" if place < 0.8 else "val" if place < 0.9 else "test"


def main(table: Path, folder: Path) -> None:
    csv.field_size_limit(sys.maxsize)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        side: (folder / f"{side}.jsonl").open("w", encoding="utf-8") for side in ("train", "val", "test")
    }
    opened = gzip.open if table.suffix == ".gz" else open
    with opened(table, "rt", encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            text = " ".join(strip_html(row["review"]).split())
            files[side_of(row["review"])].write(json.dumps({"review": text}) + "\n")
    for file in files.values():
        file.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
