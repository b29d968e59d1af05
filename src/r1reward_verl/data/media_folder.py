"""Media of preferences: paths are checked below one folder, bytes become files named after their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace

from r1reward_verl.data.preference import Preference
from r1reward_verl.errors import R1RewardError
from r1reward_verl.media import (
    PICTURE_SUFFIXES,
    Media,
    check_training_picture,
    file_kind,
    frame_names,
    resolve,
    sampled,
    video_frames,
)
from r1reward_verl.text import excerpt


class NoMediaRoot(R1RewardError):
    """A row names a file by a relative path, and there is no folder to look it up in."""


class MediaFolder:
    """A folder of files named after their sha256, which gets its name when all of them are there.

    Until `commit` it is called `<folder>.partial`; what an earlier run left there is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.partial = self.folder.with_name(f"{folder.name}.partial")
        self.discard()

    def put(self, data: bytes, sha256: str) -> str:
        """Write a file unless it is there, and return the path that it will have; thread-safe.

        Raises:
            OSError: it cannot be written.
        """
        name = f"{sha256}.{file_kind(data) or 'bin'}"
        written = self.partial / name
        if not written.exists():
            self.partial.mkdir(exist_ok=True)
            draft = self.partial / f"{name}.{threading.get_ident()}"
            draft.write_bytes(data)
            draft.replace(written)
        return str(self.folder / name)

    def commit(self) -> None:
        """Give the files their names; those of an earlier run stay beside them."""
        if not self.partial.is_dir():
            return
        if self.folder.is_dir():
            for file in self.partial.iterdir():
                file.replace(self.folder / file.name)
            self.partial.rmdir()
        else:
            self.partial.rename(self.folder)

    def discard(self) -> None:
        """Delete what was not committed."""
        shutil.rmtree(self.partial, ignore_errors=True)


class MediaSettler:
    """Finds, checks and hashes the media of preferences, and gives those without a file one. Thread-safe.

    Args:
        root: folder below which paths are meant; None if there is no such folder.
        store: where bytes go; None leaves them in the preference, and puts the content of checked files there, too.
        frames: largest number of frames of a video.
        check: whether files are opened at all. If not, paths stay as they are, and videos unsampled.

    Raises:
        ValueError: `root` is no folder.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None, store: MediaFolder | None, frames: int, check: bool
    ) -> None:
        if root is not None and not os.path.isdir(root):
            raise ValueError(f"the media root {os.fspath(root)!r} is no folder")
        self.root = None if root is None else os.path.realpath(root)
        self.store = store
        self.frames = frames
        self.check = check
        # Data sets ask several questions about a picture, mostly in rows that follow each other.
        self._checked = lru_cache(maxsize=4096)(check_training_picture)

    def has_work(self, media: Media) -> bool:
        """Tell whether a picture or video is to be checked or stored."""
        return self.check or media.data is not None

    def settle(self, preferences: Sequence[Preference]) -> list[Preference]:
        """Return the preferences of one row with their media settled.

        Raises:
            ValueError: a file is missing, outside of the root, too large or no picture.
            NoMediaRoot: a path, and no root.
            OSError: a file cannot be written.
        """
        picture, video = lru_cache(None)(self._picture), lru_cache(None)(self._video)  # the preferences share media
        return [
            replace(one, images=tuple(map(picture, one.images)), video=None if one.video is None else video(one.video))
            for one in preferences
        ]

    def _picture(self, media: Media) -> Media:
        if media.data is not None:
            sha256 = check_training_picture(media.data) if self.check else hashlib.sha256(media.data).hexdigest()
            return self._stored(media.data, sha256)
        return self._file(self._resolved(str(media.path))) if self.check else media

    def _video(self, video: tuple[Media, ...]) -> tuple[Media, ...]:
        if not self.check:
            return tuple(map(self._picture, video))
        if len(video) > 1:
            return tuple(self._picture(video[position]) for position in sampled(len(video), self.frames))
        source: str | bytes
        if video[0].data is not None:
            source = video[0].data
            single = file_kind(source) in ("jpeg", "png")
        else:
            source = self._resolved(str(video[0].path))
            if os.path.isdir(source):
                names = frame_names(source, self.frames)
                return tuple(self._file(self._resolved(os.path.join(source, name))) for name in names)
            single = os.path.splitext(source)[1].lower() in PICTURE_SUFFIXES
        if single:
            return (self._picture(video[0]),)
        frames = video_frames(source, self.frames)
        return tuple(self._stored(frame, hashlib.sha256(frame).hexdigest()) for frame in frames)

    def _resolved(self, path: str) -> str:
        if self.root is None:
            raise NoMediaRoot(
                f"a row names the file {excerpt(path)}: say below which folder it is meant (--media ROOT), or do not "
                "look at files (--no-check-media)"
            )
        return resolve(self.root, path)

    def _file(self, path: str) -> Media:
        sha256 = self._checked(path)
        if self.store is not None:
            return Media(path=path, sha256=sha256)
        try:
            return Media(data=Path(path).read_bytes(), sha256=sha256)
        except OSError as error:
            raise ValueError(f"a picture that cannot be opened ({excerpt(path)}: {error})") from error

    def _stored(self, data: bytes, sha256: str) -> Media:
        if self.store is None:
            return Media(data=data, sha256=sha256)
        return Media(path=self.store.put(data, sha256), sha256=sha256)
