"""MM-RLHF: rankings and pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from r1reward_verl.data.preference import Preference
from r1reward_verl.data.sources.base import (
    UNKNOWN,
    Row,
    Skipped,
    make_pair,
    read_media_columns,
    read_number,
    read_text,
)
from r1reward_verl.text import excerpt


class MMRLHF:
    """MM-RLHF (Hugging Face `yifanzhang114/MM-RLHF`): `dpo_pairs.jsonl`, and `data.jsonl` or its parquet.

    Pairs, of github.com/Kwai-YuanQi/MM-RLHF at 7c8af1d, `scripts/convert_to_swift.py`, `llava/train/train_dpo.py`
    [code] and issue 6 [card]: `id` (repeats), `image` or `video` (a folder of frames), `prompt`, `chosen`, `rejected`.
    `is_tie` is heeded where present; whether the release has it is unconfirmed.

    Rankings, of ShardulJunagade/cascaded-selective-evaluation at 6ba3108, `prepare_data/adapters/mm_rlhf.py`
    [report]: `question`, `models_output`, `final_ranking`, and the human scores `faithfulness`, `helpfulness`,
    `ethical`. Each pair of outputs with different ranks is a preference. That rank 1 is the best is unconfirmed, so a
    row whose ranking says otherwise than its scores is refused: where the direction is wrong, nearly all are.

    The category is the folder: long, short, mcq or safety; or video.
    """

    name = "mm-rlhf"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the pair with the chosen response first, or the pairs of a ranking with the better one first."""
        images, video = read_media_columns(row, "image"), read_media_columns(row, "video") or None
        if not images and not video:
            raise ValueError("the row has neither an image nor a video")
        folders = images[0].path.split("/")[:-1] if images and images[0].path else []
        named = next((folder for folder in reversed(folders) if folder in _MM_RLHF_FOLDERS), UNKNOWN)
        category = "video" if video else named
        if row.get("models_output") is not None:
            question = read_text(row, "question")
            pairs = _ranked(row)
        else:
            question = read_text(row, "prompt")
            if row.get("is_tie") not in (None, False, 0):
                raise Skipped(f"a tie (is_tie is {excerpt(row['is_tie'])})")
            pairs = [(read_text(row, "chosen"), read_text(row, "rejected"))]
        base = read_text(row, "id")
        yield from [
            make_pair(self.name, base, (question, *pair), images, video=video, category=category) for pair in pairs
        ]


_MM_RLHF_FOLDERS = ("long", "short", "mcq", "safety")
_MM_RLHF_SCORES = ("faithfulness", "helpfulness", "ethical")


def _ranked(row: Row) -> list[tuple[str, str]]:
    """Return the pairs (better, worse) of an MM-RLHF ranking."""
    outputs, ranking = row["models_output"], row.get("final_ranking")
    if not (isinstance(outputs, list) and isinstance(ranking, list) and len(outputs) == len(ranking)):
        raise ValueError(
            f"models_output {excerpt(outputs)} and final_ranking {excerpt(ranking)}: lists of equal length are needed"
        )
    if wrong := [output for output in outputs if not isinstance(output, str)]:
        raise ValueError(f"models_output holds {excerpt(wrong[0])}, which is no text")
    ranks = [read_number("final_ranking", rank) for rank in ranking]
    scores = [0.0] * len(outputs)
    for name in _MM_RLHF_SCORES:
        given = row.get(name)
        # An aspect counts only where all outputs have it, else the sums could not be compared.
        if isinstance(given, list) and len(given) == len(outputs) and None not in given:
            scores = [total + read_number(name, score) for total, score in zip(scores, given, strict=True)]
    agreement = 0
    pairs = []
    for i, j in combinations(range(len(outputs)), 2):
        if ranks[i] != ranks[j] and outputs[i] != outputs[j]:
            better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
            agreement += (scores[better] > scores[worse]) - (scores[better] < scores[worse])
            pairs.append((outputs[better], outputs[worse]))
    if agreement < 0:
        raise ValueError(
            f"final_ranking {ranking} with 1 for the best contradicts the sums of the scores {scores}; "
            "dpo_pairs.jsonl holds pairs whose direction is certain"
        )
    if not pairs:
        raise Skipped(f"no two different outputs have different ranks (final_ranking is {excerpt(ranking)})")
    return pairs
