"""Coverage-guided fuzzing of every reader by atheris (libFuzzer), from the right samples on: `python -m tests.fuzz_guided [-runs=1000000]`.

The first byte of an input says which reader reads the rest. It ends at the first undocumented error, with the input that made it. What
libFuzzer takes as arguments may be given; `-runs` is 20,000 by default, and the input that made it end is written below the working folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bananas"]):
    from tests.fuzz import READERS, check

readers = list(READERS.values())


def one(data: bytes) -> None:
    """Let one reader read one input."""
    if data:
        check(readers[data[0] % len(readers)], data[1:])


def main() -> None:
    """Fuzz until the runs are over."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, reader in enumerate(readers):
            for place, sample in enumerate(reader.samples):
                Path(corpus, f"{number}-{place}").write_bytes(bytes([number]) + sample)
        options = sys.argv[1:] if any(option.startswith("-runs") for option in sys.argv) else [*sys.argv[1:], "-runs=20000"]
        atheris.Setup([sys.argv[0], *options, "-max_len=4096", "-timeout=20", "-rss_limit_mb=1024", corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
