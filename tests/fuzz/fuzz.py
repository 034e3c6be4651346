"""Fuzz everything that reads what others wrote, with atheris: the table of decoders.py, a byte telling which.

    python3 noxfile.py -s fuzz -- --seconds 600

It ends with an error at the first input that gives neither a value nor one of our errors, and leaves it in the corpus
as `crash-…`; what takes longer than 5 seconds, or more than 2 GiB, is one too. What it learns is kept there as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

with atheris.instrument_imports(include=["decoders", "higgsfield_async", "standardwebhooks"]):
    import decoders
    import fuzz_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="end after so many inputs")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"))
    parser.add_argument("--only", choices=decoders.DECODERS, help="one of the decoders")
    given = parser.parse_args()
    names = [given.only] if given.only else [*decoders.DECODERS]
    given.corpus.mkdir(parents=True, exist_ok=True)
    folders = [] if given.only else fuzz_seeds.write(given.corpus)

    def one(data: bytes) -> None:
        if data:
            decoders.fed(names[data[0] % len(names)], data[1:])

    print(f"{len(names)} decoders", flush=True)
    options = [f"-max_total_time={given.seconds}", f"-runs={given.runs}", "-timeout=5", "-rss_limit_mb=2048"]
    options.append(f"-artifact_prefix={given.corpus}/")
    found = given.corpus / "found"
    found.mkdir(exist_ok=True)
    corpus = [str(found), *(str(given.corpus / folder) for folder in folders)]
    atheris.Setup([sys.argv[0], "-max_len=4096", "-print_final_stats=1", *options, *corpus], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
