"""How fast one core converts and reads preferences, and what memory conversion takes.

The input is a jsonl file of a kilobyte a row: a question of a dozen words and two responses of 60 and 70, about a
picture named by its path that two rows share. Nothing looks at the pictures. Rates are rows by processor time, of all
threads together, so that other work on the machine and other cores do not count. Each conversion runs in a fresh
process, whose peak is that of its resident memory, Python and pyarrow included.

Every tenth row is the one before it with a word more in each text: what is left of that shows in "kept".

Reading: `read_preferences`, which checks every value and makes a `Preference` of each row, of the file that was
converted. Peer: pyarrow making a dict of each row, with the batches it takes by default and with those of 256 rows
that ours takes to save memory; pyarrow is faster with the latter.
"""

import multiprocessing
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pyarrow import parquet

from r1reward_verl.data.convert import ConvertSettings, convert
from r1reward_verl.data.files import read_preferences
from r1reward_verl.data.readers import RowError
from r1reward_verl.data.sources.plain import Plain

if __name__ != "__mp_main__":  # the processes started here need no torch
    from _bench import Figure, report

SMALL, LARGE = 20_000, 200_000
ROWS_PER_SECOND = 5_000
PEAK_MB = 500
PEAK_RATIO = 1.2
READ_RATIO = 1.2
SIMILARITY = 0.9
ROUNDS = 15


@dataclass
class Run:
    """One conversion."""

    rate: float  # rows a second of processor time
    peak: float  # MB
    written: int


def rows(count: int) -> Iterator[str]:
    """Write rows as lines of jsonl."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(3_000)]
    earlier: list[list[str]] = []
    for index in range(count):
        picture = index // 2
        if index % 10 == 9:
            texts = [f"{text} {rng.choice(words)}" for text in earlier[-1]]
            picture = (index - 1) // 2
        else:
            texts = [" ".join(rng.choices(words, k=length)) for length in (12, 70, 60)]
        earlier = [texts]
        question, chosen, rejected = texts
        yield (
            f'{{"id": "{index}", "category": "scene", "question": "{question}", "chosen": "{chosen}", '
            f'"rejected": "{rejected}", "image": "images/{picture:08}.jpg"}}\n'
        )


def converted(source: Path, out: Path, near_duplicates: float | None) -> Run:
    """Convert a file in this process."""
    start = time.process_time()
    counts = convert(
        Plain(), [source], out, ConvertSettings(check_media=False, near_duplicates=near_duplicates), progress=False
    )
    taken = time.process_time() - start
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    if peak is None:
        raise OSError("/proc/self/status tells no VmHWM")
    return Run(counts.rows["read"] / taken, int(peak.group(1)) / 1e3, counts.preferences["written"])


def in_fresh_process(source: Path, out: Path, near_duplicates: float | None = None) -> Run:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(converted, source, out, near_duplicates).result()


def processor_seconds(rivals: Mapping[str, Callable[[], int]], expected: int) -> dict[str, float]:
    """Least processor seconds of one call of each rival, measured in turns."""
    least = dict.fromkeys(rivals, float("inf"))
    for _ in range(ROUNDS):
        for name, call in rivals.items():
            start = time.process_time()
            found = call()
            least[name] = min(least[name], time.process_time() - start)
            if found != expected:
                raise RuntimeError(f"{name} read {found} rows instead of {expected}")
    return least


def read(file: Path) -> int:
    return sum(not isinstance(item, RowError) for item in read_preferences(file))


def pyarrow_reads(file: Path, **options: int) -> int:
    return sum(len(batch.to_pylist()) for batch in parquet.ParquetFile(file).iter_batches(**options))


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources, outs = {}, {}
        for count in (SMALL, LARGE):
            sources[count], outs[count] = folder / f"{count}.jsonl", folder / f"{count}.parquet"
            with sources[count].open("w") as file:
                file.writelines(rows(count))
        plain = {count: in_fresh_process(sources[count], outs[count]) for count in sources}
        near = {count: in_fresh_process(sources[count], folder / "near.parquet", SIMILARITY) for count in sources}
        times = processor_seconds(
            {
                "ours": lambda: read(outs[SMALL]),
                "default": lambda: pyarrow_reads(outs[SMALL]),
                "small": lambda: pyarrow_reads(outs[SMALL], batch_size=256),
            },
            plain[SMALL].written,
        )

    figures = []
    for title, runs in (("convert", plain), ("near-duplicates", near)):
        bound = runs is plain
        for count, run in runs.items():
            label = f"{title}, {count:,} rows"
            figures.append(Figure(label, run.rate / 1e3, "k/s", target=ROWS_PER_SECOND / 1e3 if bound else None))
        for count, run in runs.items():
            label = f"{title}, peak of {count:,} rows"
            figures.append(Figure(label, run.peak, "MB", target=PEAK_MB if bound else None, at_least=False))
        growth = Figure(
            f"{title}, peak of both", runs[LARGE].peak, "MB", peer=runs[SMALL].peak, at_least=False, compare="ratio"
        )
        growth.target = PEAK_RATIO if bound else None
        figures.append(growth)
    figures.append(Figure("near-duplicates, kept", near[LARGE].written / LARGE * 100, "%"))
    ours = times["ours"] * 1e3
    figures += [
        Figure("read", ours, "ms", times["default"] * 1e3, READ_RATIO, at_least=False, compare="ratio"),
        Figure("read, peer in small batches", ours, "ms", times["small"] * 1e3, at_least=False, compare="ratio"),
    ]
    return report("data", figures, ("r1reward-verl", "pyarrow", "datasketch"))


if __name__ == "__main__":
    sys.exit(main())
