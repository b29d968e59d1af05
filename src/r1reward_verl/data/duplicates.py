"""Which preferences stand more than once in a data set: exactly, or nearly (MinHash)."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from r1reward_verl.data.preference import Preference
from r1reward_verl.media import Media
from r1reward_verl.text import excerpt

_MARKER = re.compile(r"<(?:image|video)>")
_PERMUTATIONS = 128
_SHINGLE = 5
_PIECE = 4096  # shingles at a time: their hashes under all permutations are 2 MiB
_QUESTION, _RESPONSE = 1, 2


def digest(*parts: str) -> bytes:
    """Return 16 bytes that are others for every other sequence of texts."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


def normalised(text: str) -> str:
    """Return a text without what copies of it may differ in: case, white space, forms of a character, `<image>`."""
    return " ".join(unicodedata.normalize("NFKC", _MARKER.sub(" ", text)).casefold().split())


def content(preference: Preference) -> bytes:
    """Return a digest of question, media and responses, which two preferences share if one of them is too many.

    The order of the responses and the label are not in it. Media are the same by content, unhashed ones by path.
    """
    responses = sorted((preference.response_1, preference.response_2))
    return digest(preference.question, *responses, *_media(preference))


def _media(preference: Preference) -> list[str]:
    media = (*preference.images, *(preference.video or ()))
    return [str(len(preference.images)), *map(_identity, media)]


def _identity(media: Media) -> str:
    return media.sha256 or media.path or hashlib.sha256(media.data or b"").hexdigest()


class Seen:
    """The preferences so far, to find those that repeat one of them or its id.

    Args:
        files: names of the input files.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._contents: dict[bytes, bool] = {}  # -> whether the alphabetically first response is the better one
        self._ids: dict[bytes, int] = {}  # -> file and row

    def add(self, preference: Preference, file: int, number: int) -> bool | None:
        """Remember a preference of a row, unless it repeats an earlier one.

        Returns:
            None if it is new. Else whether the earlier one calls the other response better.

        Raises:
            ValueError: an earlier one of another content has its source and id.
        """
        better_first = (preference.label == 1) == (preference.response_1 < preference.response_2)
        key = content(preference)
        if key in self._contents:
            return self._contents[key] != better_first
        identity = digest(preference.source, preference.id)
        if (first := self._ids.get(identity)) is not None:
            raise ValueError(
                f"id {excerpt(preference.id)} of {excerpt(preference.source)} stands already in "
                f"{self._files[first >> 40]}:{first & (1 << 40) - 1}, with another content"
            )
        self._ids[identity], self._contents[key] = file << 40 | number, better_first
        return None


class NearDuplicates:
    """Finds preferences with the same media as an earlier one and nearly the same texts.

    The texts are compared as sets of shingles (five consecutive characters, since Chinese and Japanese have no spaces
    between words): those of the question and, told apart from them, those of both responses. MinHash estimates the
    sets' Jaccard similarity J with a standard deviation of sqrt(J (1 - J) / 128): 0.027 at 0.9.

    Candidates share a band of a signature's 128 values. There are more bands than values in which two signatures that
    reach the threshold can differ, so that one band at least is the same in both. A preference is compared only with
    the first one of each of its bands that has the same media, at 0.9 with 13 at most. Among many rows that have most
    of their text in common, a few near-duplicates are therefore missed.

    Memory for each preference that is kept: about 400 bytes, and 90 for each band (0.9: 2 kB, 0.5: 6 kB).

    Args:
        threshold: of the estimated similarity, from 0.5 to 1.

    Raises:
        ValueError: another threshold.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.5 <= threshold <= 1:
            raise ValueError(f"the threshold of near-duplicates is {threshold}, not between 0.5 and 1")
        from datasketch import MinHash

        self._minhash = MinHash(_PERMUTATIONS, hashfunc=int)
        self._equal = math.ceil(threshold * _PERMUTATIONS)
        bands = _PERMUTATIONS - self._equal + 1
        self._cuts = [band * _PERMUTATIONS // bands for band in range(bands + 1)]
        self._bands: dict[bytes, int] = {}
        self._count = 0
        # A byte of each value is enough once a candidate is found: 1 in 256 of the others is the same by chance.
        self._signatures = bytearray()

    def find(self, preference: Preference) -> bool | None:
        """Look for an earlier preference that this one nearly repeats, and remember this one if there is none.

        Returns:
            None if there is none. Else whether the earlier one calls the other response better, as far as the two
            responses can be told apart.
        """
        signature, keys = self._signature(preference)
        candidates = sorted({self._bands[key] for key in keys if key in self._bands})
        if candidates:
            known = np.frombuffer(self._signatures, np.uint8).reshape(-1, *signature.shape)[candidates]
            equal = np.count_nonzero(known[:, 0] == signature[0], axis=1)
            nearest = int(equal.argmax())
            if equal[nearest] >= self._equal:
                responses = known[nearest, 1:]
                straight = np.count_nonzero(responses == signature[1:])
                return bool(np.count_nonzero(responses[::-1] == signature[1:]) > straight)
        for key in keys:
            self._bands.setdefault(key, self._count)
        self._signatures += signature.tobytes()
        self._count += 1
        return None

    def _signature(self, preference: Preference) -> tuple[np.ndarray, list[bytes]]:
        """Return a byte of each value of all texts, the better and the worse response; and the keys of the bands."""
        responses = [preference.response_1, preference.response_2]
        better, worse = (self._values(_RESPONSE, text) for text in responses[:: 1 if preference.label == 1 else -1])
        # Of a union of sets each value is the least of theirs.
        texts = np.minimum(np.minimum(better, worse), self._values(_QUESTION, preference.question))
        media = digest(*_media(preference))
        keys = []
        for band, (start, end) in enumerate(pairwise(self._cuts)):
            key = media + bytes([band]) + texts[start:end].astype("<u4").tobytes()
            keys.append(hashlib.blake2b(key, digest_size=8).digest())
        return np.stack([texts, better, worse]).astype(np.uint8), keys

    def _values(self, kind: int, text: str) -> np.ndarray:
        self._minhash.clear()
        for shingles in _shingles(kind, normalised(text)):
            self._minhash.update_batch(shingles)
        return self._minhash.hashvalues


# Multilinear hashing: of random 64-bit factors the upper half of the sum is evenly spread for any two shingles.
_FACTORS = np.frombuffer(hashlib.blake2b(b"shingles", digest_size=8 * (_SHINGLE + 1)).digest(), "<u8").astype(np.uint64)


def _shingles(kind: int, text: str) -> Iterator[list[int]]:
    """Yield the hashes of a text's shingles, some at a time; a text shorter than one is one."""
    text = text.ljust(_SHINGLE, "\0")
    for start in range(0, len(text) - _SHINGLE + 1, _PIECE):
        piece = text[start : start + _PIECE + _SHINGLE - 1]
        codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(codes, _SHINGLE)
        yield ((windows @ _FACTORS[1:] + np.uint64(kind) * _FACTORS[0]) >> np.uint64(32)).tolist()
