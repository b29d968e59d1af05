"""Which preferences also stand in an evaluation benchmark, so that they stay out of training data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from r1reward_verl.data.duplicates import digest, normalised
from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.sources.base import read_media_list
from r1reward_verl.media import Media, look_at, resolve


class Benchmarks:
    """What stands in evaluation benchmarks, to keep it out of training data.

    A preference stands in a benchmark if its question does (apart from case, white space and `<image>`) with one of
    its pictures, or with both responses. Pictures are the same if their contents are; where one of the two files is
    not at hand, if their names are.

    Args:
        files: VL-RewardBench, MM-RLHF-RewardBench or Multimodal RewardBench in the forms they are published in, or
            files of this project.
        media_root: where the benchmarks' files are looked for, besides the folder of each benchmark file.

    Raises:
        ValueError: a file cannot be read to its end, is of another form, or holds nothing to compare with.
    """

    def __init__(self, files: Sequence[str | os.PathLike[str]], media_root: str | os.PathLike[str] | None) -> None:
        self.files = [os.fspath(file) for file in files]
        self.rows: dict[str, dict[str, int]] = {}
        self._keys: dict[bytes, int] = {}
        for index, file in enumerate(self.files):
            roots = [os.path.realpath(root) for root in (os.path.dirname(file) or ".", media_root) if root is not None]
            counts = self.rows[file] = {"rows": 0, "unusable": 0}
            for item in read_rows(file):
                if isinstance(item, RowError):
                    raise ValueError(f"{file}:{item.number}: {item.reason}")
                counts["rows"] += 1
                try:
                    keys = list(_benchmark_keys(item[1], roots))
                except KeyError:
                    columns = ", ".join(map(str, item[1]))
                    raise ValueError(f"{file}:{item[0]}: no benchmark of a known form (columns: {columns})") from None
                except ValueError:
                    counts["unusable"] += 1
                    continue
                for key in keys:
                    self._keys.setdefault(key, index)
            if counts["unusable"] == counts["rows"]:
                raise ValueError(f"{file}: none of its {counts['rows']} rows has a question and readable media")

    def find(self, preference: Preference, names: Sequence[str]) -> str | None:
        """Return the file in which a preference stands, whose media had these file names; else None."""
        question = normalised(preference.question)
        if digest("question", question) not in self._keys:
            return None
        keys = [digest("responses", question, *_normalised_pair(preference.response_1, preference.response_2))]
        hashes = [media.sha256 for media in preference.images if media.sha256]
        keys += [digest("sha256", question, sha256) for sha256 in hashes]
        keys += [digest("unhashed" if hashes else "name", question, name) for name in names]
        if not preference.images and preference.video is None:
            keys.append(digest("no media", question))
        index = next((self._keys[key] for key in keys if key in self._keys), None)
        return None if index is None else self.files[index]

    def asks(self, question: str) -> bool:
        """Tell whether a benchmark has this question, about whatever picture."""
        return digest("question", normalised(question)) in self._keys


def _benchmark_keys(row: Mapping[str, Any], roots: Sequence[str]) -> Iterator[bytes]:
    """Yield what a preference has in common with this row if it is the same.

    Raises:
        KeyError: not the columns of a known benchmark.
        ValueError: the row has no question, or media that cannot be read.
    """
    if "query" in row:
        text, responses = row["query"], row["response"]
    elif "Output1" in row:
        # Its download leaves out the question where a source was not to be had.
        text, responses = row.get("Text"), (row["Output1"], row["Output2"])
    elif "question" in row:
        text, responses = row["question"], (row["response_1"], row["response_2"])
    else:
        text, responses = row["prompt"], (row["chosen"], row["rejected"])
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no question")
    media = [one for name in ("images", "image", "Image") for one in read_media_list(row.get(name))]
    video = read_media_list(row.get("video"))
    question = normalised(text)
    yield digest("question", question)
    if isinstance(responses, list | tuple) and [type(response) for response in responses] == [str, str]:
        yield digest("responses", question, *_normalised_pair(*responses))
    if not media and not video:
        yield digest("no media", question)
    for one in [*media, *video[:1]]:
        sha256 = None if one in video else _sha256(one, roots)
        if sha256:
            yield digest("sha256", question, sha256)
        if one.path is not None:
            name = os.path.basename(one.path.rstrip("/"))
            yield digest("name", question, name)
            if not sha256:
                yield digest("unhashed", question, name)


def _normalised_pair(one: str, other: str) -> list[str]:
    return sorted((normalised(one), normalised(other)))


def _sha256(media: Media, roots: Sequence[str]) -> str | None:
    if media.data is not None:
        return hashlib.sha256(media.data).hexdigest()
    for root in roots:
        with suppress(ValueError):
            return look_at(resolve(root, str(media.path)))[0]
    return None
