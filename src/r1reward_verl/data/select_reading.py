"""What selection reads: of each preference what decides about it is kept in memory, some hundred bytes.

Its texts wait in a file until it is known in what order they are written.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from r1reward_verl.data.duplicates import content, digest
from r1reward_verl.data.preference import Preference
from r1reward_verl.data.rows import difficulty_of
from r1reward_verl.data.selection import Keys, Rules
from r1reward_verl.judgement import parse
from r1reward_verl.media import Media, check_training_picture
from r1reward_verl.text import excerpt

_FRAME = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?)$", re.IGNORECASE)


class Spool:
    """Preferences on the disk, to be read again in another order."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("w+b")
        self._ends = array("Q", [0])

    def add(self, preference: Preference) -> None:
        """Keep a preference as the next one."""
        self._ends.append(self._ends[-1] + self._file.write(msgspec.msgpack.encode(preference)))

    def get(self, index: int) -> Preference:
        """Return a preference by its place, from 0."""
        start, end = self._ends[index : index + 2]
        self._file.seek(start)
        return msgspec.msgpack.decode(self._file.read(end - start), type=Preference)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Reading:
    """All that is known after the input has been read once.

    Args:
        spool: where the preferences go.
        inputs: names of the files.
        rules: of the selection.
        inline: whether pictures are to be embedded, which have to be there then.
    """

    def __init__(self, spool: Spool, inputs: Sequence[str], rules: Rules, inline: bool) -> None:
        self.spool = spool
        self.inputs = inputs
        self.rules = rules
        self.inline = inline
        self.rows: Counter[str] = Counter()
        self.lost_files: list[str] = []
        self.sources: dict[str, int] = {}
        self._categories: dict[tuple[str, str], int] = {}
        self.difficulties: Counter[str] = Counter()
        self.media: Counter[str] = Counter()
        self._ids: dict[bytes, int] = {}
        self._keys = bytearray()  # records of `_KEY`
        self._group = array("q")  # the number of an earlier preference of the same group, or of itself
        self._groups: dict[int, int] = {}
        self._checked = lru_cache(maxsize=4096)(check_training_picture)

    def add(self, file: int, number: int, preference: Preference) -> None:
        """Take a preference.

        Raises:
            ValueError: it cannot be used.
        """
        self._check(preference)
        here = file << 40 | number
        first = self._ids.setdefault(digest(preference.source, preference.id), here)
        if first != here:
            where = f"{self.inputs[first >> 40]}:{first & (1 << 40) - 1}"
            raise ValueError(
                f"id {excerpt(preference.id)} of source {excerpt(preference.source)} stands already in {where}"
            )
        self.spool.add(preference)
        self.difficulties[difficulty_of(preference)] += 1
        media = (*preference.images, *(preference.video or ()))
        forms = {"paths" if one.data is None else "bytes" for one in media}
        self.media["both" if len(forms) > 1 else next(iter(forms), "none")] += 1
        seed = str(self.rules.seed)
        drawn = hashlib.blake2b("\0".join((seed, preference.source, preference.id)).encode(), digest_size=24)
        group_draw, group = self._grouped(preference) if self.rules.val else (0, 0)
        self._group.append(group)
        self._keys += struct.pack(
            "<h?b2I5Q",
            preference.difficulty or 0,
            preference.trace is not None,
            preference.label,
            self.sources.setdefault(preference.source, len(self.sources)),
            self._categories.setdefault((preference.source, preference.category), len(self._categories)),
            *struct.unpack("<3Q", drawn.digest()),
            int.from_bytes(content(preference)[:8], "little"),
            group_draw,
        )

    def _check(self, preference: Preference) -> None:
        if preference.trace is not None:
            verdict = parse(preference.trace)
            if verdict.reason is not None:
                raise ValueError(f"the trace is no judgement ({verdict.reason}): {excerpt(preference.trace[-200:])}")
            if verdict.choice != preference.label:
                raise ValueError(f"the trace says {verdict.choice}, the label {preference.label}")
        video = preference.video or ()
        for media in (*preference.images, *video):
            if media.path is not None and not os.path.isabs(media.path):
                raise ValueError(
                    f"the media path {excerpt(media.path)} is relative, and verl would look for it wherever it runs: "
                    "`r1reward data convert --media ROOT` makes paths absolute"
                )
        if len(video) == 1 and video[0].path is not None and not _FRAME.search(video[0].path):
            raise ValueError(
                f"the video {excerpt(video[0].path)} is not cut into frames: convert it without --no-check-media"
            )
        if self.inline:
            for media in (*preference.images, *video):
                if media.path is not None and media.sha256 not in (None, self._checked(media.path)):
                    raise ValueError(f"{excerpt(media.path)} is not the file any more whose sha256 stands in the row")

    def _grouped(self, preference: Preference) -> tuple[int, int]:
        """Return a draw, and the number of the first preference that has something in common with this one."""
        names = list(_identities(preference))
        identities = [int.from_bytes(digest(str(self.rules.seed), name)[:8], "little") for name in names]
        roots = {_root(self._group, self._groups[one]) for one in identities if one in self._groups}
        root = min(roots, default=len(self._group))
        for other in roots:
            self._group[other] = root
        for one in identities:
            self._groups[one] = root
        # By contents where they are known: files may be moved.
        draws = [one for one, name in zip(identities, names, strict=True) if not name.startswith("path ")]
        return min(draws or identities), root

    def keys(self) -> Keys:
        """Return what decides about the preferences."""
        keys = np.frombuffer(self._keys, _KEY)
        roots = np.fromiter((_root(self._group, index) for index in range(len(keys))), np.int64, len(keys))
        group_draw = keys["group_draw"].copy()
        np.minimum.at(group_draw, roots, keys["group_draw"])
        columns = {
            name: keys[name] for name in ("difficulty", "solved", "label", "source", "category", "draws", "content")
        }
        return Keys(**columns, group=roots, group_draw=group_draw[roots])


_KEY = np.dtype(
    [
        ("difficulty", "<i2"),
        ("solved", "?"),
        ("label", "i1"),
        ("source", "<u4"),
        ("category", "<u4"),
        ("draws", "<u8", 3),
        ("content", "<u8"),
        ("group_draw", "<u8"),
    ]
)


def _root(parents: array[int], index: int) -> int:
    while index < len(parents) and parents[index] != index:
        index = parents[index]
    return index


def _identities(preference: Preference) -> Iterator[str]:
    """Yield names of what a preference must not have in common with a held-out one."""
    for media in preference.images:
        yield from _names(media)
    if preference.video is not None:
        # The first and the last frame are there however many were sampled. One alone may be black.
        ends = zip(_names(preference.video[0]), _names(preference.video[-1]), strict=False)
        yield from (f"{first} {last}" for first, last in ends)
    if not preference.images and preference.video is None:
        yield "question " + " ".join(preference.question.casefold().split())


def _names(media: Media) -> list[str]:
    sha256 = media.sha256 if media.data is None else hashlib.sha256(media.data).hexdigest()
    names = [] if sha256 is None else [f"content {sha256}"]
    return names if media.path is None else [*names, f"path {media.path}"]
