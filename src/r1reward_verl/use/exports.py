"""What is made of judged and ranked rows: the best responses, and preference pairs in TRL's form for DPO.

OUT/best.jsonl   of each ranked row the best response: `id`, `question`, `response`, `score`, `row`
OUT/pairs.jsonl  `prompt`, `chosen`, `rejected` as lists of messages, `images` (paths) where there are any, `margin`,
                 and `id` (huggingface/trl, documentation `dataset_formats`: preference, conversational, vision)
OUT/media/       pictures that stood in the data itself
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from r1reward_verl.data.readers import RowError
from r1reward_verl.media import Media
from r1reward_verl.settings import Settings, setting
from r1reward_verl.storage import whole_file
from r1reward_verl.use.rows import Group, read_groups

Pair = tuple[int, int, float]  # positions of the better and the worse response, and the margin between them

_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}


class ExportSettings(Settings, frozen=True, kw_only=True):
    """Which preference pairs are written."""

    pairs: Annotated[
        Literal["best-worst", "best-rest", "all"],
        setting("Pairs of a ranked row: best with worst, best with each other one, or all."),
    ] = "best-worst"
    min_margin: Annotated[
        float, setting("Smallest margin of a pair; smaller ones are near ties.", metavar="MARGIN", ge=0, le=1)
    ] = 0.0
    keep_top: Annotated[
        float, setting("Share of the pairs to keep, those with the largest margins.", metavar="SHARE", gt=0, le=1)
    ] = 1.0
    agreeing: Annotated[
        bool, setting("Keep only pairs whose better response is the one that the file calls better.")
    ] = False


def pairs_of(result: Mapping[str, Any], settings: ExportSettings) -> list[Pair]:
    """Return the preference pairs in a row of `results.jsonl`, ties left out.

    The margin of a judged pair is |P(1) - P(2)|, that of a ranked one the difference of the scores.
    """
    if "verdict" in result:
        if result["verdict"] is None:
            return []
        better = result["verdict"] - 1
        return [(better, 1 - better, abs(2 * result["probability"] - 1))]
    order, scores = result["order"], result["scores"]
    wanted = {
        "best-worst": [(order[0], order[-1])],
        "best-rest": [(order[0], other) for other in order[1:]],
        "all": [(one, other) for place, one in enumerate(order) for other in order[place + 1 :]],
    }[settings.pairs]
    return [(one, other, scores[one] - scores[other]) for one, other in wanted if scores[one] > scores[other]]


def export(
    data: str | os.PathLike[str],
    out: Path,
    settings: ExportSettings,
    *,
    media: str | os.PathLike[str] | None = None,
) -> dict[str, int]:
    """Write `pairs.jsonl`, and `best.jsonl` of ranked rows.

    Args:
        data: the file that was judged or ranked.
        out: folder that holds `results.jsonl`.
        settings: which pairs.
        media: folder of relative media paths, as it was.

    Returns:
        Numbers of pairs: "pairs" in all, "near_ties" and "disagreeing" left out, "written".

    Raises:
        OSError: the disk is full, for example.
    """
    counts = {"pairs": 0, "near_ties": 0, "disagreeing": 0, "written": 0}
    margins: list[float] = []
    for group, result in _joined(data, out, media):
        for better, _, margin in pairs_of(result, settings):
            counts["pairs"] += 1
            if margin < settings.min_margin:
                counts["near_ties"] += 1
            elif settings.agreeing and group.label is not None and better != group.label:
                counts["disagreeing"] += 1
            else:
                margins.append(margin)
    kept = sorted(margins, reverse=True)[: max(1, round(settings.keep_top * len(margins)))]
    least = max(settings.min_margin, kept[-1] if kept else 0.0)
    ties = sum(margin == least for margin in kept)  # of the pairs at the least margin the first ones are kept
    with whole_file(out / "pairs.jsonl") as file:
        for group, result in _joined(data, out, media):
            for better, worse, margin in pairs_of(result, settings):
                disagrees = settings.agreeing and group.label is not None and better != group.label
                if disagrees or margin < least or (margin == least and not ties):
                    continue
                ties -= margin == least
                counts["written"] += 1
                row = trl_row(group, better, worse, margin, out / "media")
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    _write_best(data, out, media)
    return counts


def _write_best(data: str | os.PathLike[str], out: Path, media: str | os.PathLike[str] | None) -> None:
    rows = ((group, result) for group, result in _joined(data, out, media) if "best" in result)
    first = next(rows, None)
    if first is None:
        return
    with whole_file(out / "best.jsonl") as file:
        for group, result in (first, *rows):
            best = result["best"]
            row = {
                "id": group.id,
                "row": group.row,
                "question": group.question.text,
                "response": group.responses[best].text,
                "score": result["scores"][best],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _joined(
    data: str | os.PathLike[str], out: Path, media: str | os.PathLike[str] | None
) -> Iterator[tuple[Group, dict[str, Any]]]:
    """Yield each row of the data that has a result, with that."""
    groups = (group for group in read_groups(data, media) if not isinstance(group, RowError))
    with (out / "results.jsonl").open(encoding="utf-8") as file:
        for line in file:
            result = json.loads(line)
            yield next(group for group in groups if group.row == result["row"]), result


def trl_row(group: Group, better: int, worse: int, margin: float, folder: Path) -> dict[str, Any]:
    """Return a pair in TRL's conversational form; pictures without a file are written to `folder`."""
    chosen, rejected = group.responses[better], group.responses[worse]
    question = [*group.question.images, *(frame for video in group.question.videos for frame in video)]
    pictured = bool(question or chosen.images or rejected.images)
    row: dict[str, Any] = {
        "id": group.id,
        "prompt": [_message("user", group.question.text, question, pictured)],
        "chosen": [_message("assistant", chosen.text, chosen.images, pictured)],
        "rejected": [_message("assistant", rejected.text, rejected.images, pictured)],
        "margin": margin,
    }
    if pictured:
        # The pictures of the question, then those of both responses, as the parts of the messages name them in turn.
        row["images"] = [_file(one, folder) for one in (*question, *chosen.images, *rejected.images)]
    return row


def _message(role: str, text: str, images: Sequence[Media], pictured: bool) -> dict[str, Any]:
    if not pictured:
        return {"role": role, "content": text}
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in images]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _file(media: Media, folder: Path) -> str:
    """Return the path of a picture."""
    if media.path is not None:
        return media.path
    assert media.data is not None
    path = folder / (hashlib.sha256(media.data).hexdigest()[:32] + _SUFFIXES.get(media.data[:2], ".bin"))
    if not path.exists():
        folder.mkdir(exist_ok=True)
        path.write_bytes(media.data)
    return str(path.resolve())
