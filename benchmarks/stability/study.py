"""The stability study: which part of StableReinforce matters when. `make study`, or `make study QUICK=1`.

Each run is one arm (`arms.py`) and one seed; seeds are paired: arms of one seed have the same start, the same held-out
prompts and the same generator. Finished runs are kept in `outputs/study/runs.jsonl`, and the same command resumes.
`benchmarks/results/stability.json` and the plots are written at the end.
"""

import argparse
import json
import multiprocessing
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from arms import SEEDS, TUNING_SEEDS, Arm, arms, neighbours, quick, tuning
from summary import best_rates, draw_plots, print_tables, summarise, write_tables
from train import make_starts, run

from r1reward_verl.progress import progress_bar
from r1reward_verl.storage import AppendFile, locked, write_json

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "stability.md"
FIRST_TUNING_SEED = 1000


def _task(task: tuple[str, Any, int, Path]) -> dict[str, Any]:
    kind, arm, seed, starts = task  # of a start, the arm is the shares that are wanted
    torch.set_num_threads(1)
    start = time.process_time()  # others may work on the same cores
    if kind == "start":
        make_starts(seed, starts, arm)
        return {}
    return run(arm, seed, starts) | {"settings": asdict(arm), "seconds": round(time.process_time() - start, 2)}


class Study:
    """All runs of the study in one folder.

    Args:
        folder: for starts and finished runs.
        workers: processes.
        seeds: of each arm.
    """

    def __init__(self, folder: Path, workers: int, seeds: int, tuning_seeds: int) -> None:
        self.folder, self.workers = folder, workers
        self.seeds = range(seeds)
        self.tuning_seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + tuning_seeds)
        self.starts = folder / "starts"
        self.starts.mkdir(parents=True, exist_ok=True)
        self.runs: dict[tuple[str, int], dict[str, Any]] = {}
        self.wanted: list[tuple[str, int]] = []

    def go(self, chosen: list[Arm], tuned: list[Arm]) -> None:
        """Train what is missing: the starts, all arms, the tuning, and then the neighbours with their rates."""
        log = AppendFile(self.folder / "runs.jsonl")
        try:
            for _, _, line in log.lines():
                self._add(json.loads(line))
            log.cut()
            with multiprocessing.get_context("spawn").Pool(self.workers) as pool:
                shares = sorted({arm.start for arm in [*chosen, *tuned]})
                missing = [
                    ("start", shares, seed, self.starts)
                    for seed in (*self.seeds, *(self.tuning_seeds if tuned else ()))
                    if not all((self.starts / f"{seed}-{share:g}.safetensors").exists() for share in shares)
                ]
                for _ in progress_bar(pool.imap_unordered(_task, missing), desc="starts", total=len(missing)):
                    pass
                self._train(pool, log, "arms", [(arm, seed) for seed in self.seeds for arm in chosen])
                self._train(pool, log, "tuning", [(arm, seed) for seed in self.tuning_seeds for arm in tuned])
                if tuned:
                    rates = best_rates(self.runs.values())
                    last = [replace(arm, steps=tuned[0].steps) for arm in neighbours(rates)]
                    self._train(pool, log, "neighbours", [(arm, seed) for seed in self.seeds for arm in last])
        finally:
            log.close()

    def _add(self, result: dict[str, Any]) -> None:
        self.runs[result["arm"], result["seed"]] = result

    def _is_done(self, arm: Arm, seed: int) -> bool:
        """Tell whether the run is there, with the settings that the arm has now."""
        return self.runs.get((arm.key, seed), {}).get("settings") == asdict(arm)

    def _train(self, pool: Any, log: AppendFile, title: str, wanted: list[tuple[Arm, int]]) -> None:
        self.wanted += [(arm.key, seed) for arm, seed in wanted]
        tasks = [("run", arm, seed, self.starts) for arm, seed in wanted if not self._is_done(arm, seed)]
        for result in progress_bar(pool.imap_unordered(_task, tasks), desc=title, total=len(tasks), unit="run"):
            self._add(result)
            log.append((json.dumps(result) + "\n").encode())


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, ten steps: whether everything works")
    parser.add_argument("--out", type=Path, help="folder of starts and runs (outputs/study, or outputs/study-quick)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of stability.json")
    parser.add_argument("--plots", type=Path, help="folder of the plots (docs/images)")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seeds", type=int, help=f"seeds of each arm ({SEEDS}; quick: 2)")
    parser.add_argument("--arms", default="", help="regular expression: only arms whose names it finds")
    options = parser.parse_args()
    out = options.out or Path("outputs/study-quick" if options.quick else "outputs/study")
    chosen = [arm for arm in arms() if re.search(options.arms, arm.key)]
    tuned = [arm for arm in tuning() if re.search(options.arms, arm.key)]
    if len(tuned) < len(tuning()):
        tuned = []  # a rate is chosen among all
    if options.quick:
        chosen, tuned = [quick(arm) for arm in chosen], [quick(arm) for arm in tuned]
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "runs.jsonl"):
        seeds = options.seeds or (2 if options.quick else SEEDS)
        study = Study(out, options.workers, seeds, 1 if options.quick else TUNING_SEEDS)
        study.go(chosen, tuned)
    summary = summarise(study.runs[wanted] for wanted in study.wanted)
    print_tables(summary)
    if not options.quick or options.results != RESULTS:
        options.results.mkdir(parents=True, exist_ok=True)
        write_json(options.results / "stability.json", summary)
        draw_plots(summary, options.plots or PAGE.parents[1] / "images")
        if options.results == RESULTS:
            write_tables(summary, PAGE)


if __name__ == "__main__":
    main()
