"""Where the media of a benchmark's file are: published copies keep the same files in different folders."""

from __future__ import annotations

import os
from contextlib import suppress

from msgspec.structs import replace

from r1reward_verl.media import Media, frame_names, resolve, sampled
from r1reward_verl.text import excerpt


class MediaFinder:
    """Finds the files that the paths of a benchmark's file mean.

    Args:
        path: the benchmark's file.
        media_root: folder of the media, searched before that of the file; None for the file's alone.
        keep_absolute: whether absolute paths are taken as they are.

    Raises:
        ValueError: `media_root` is not a folder.
    """

    def __init__(
        self, path: str | os.PathLike[str], media_root: str | os.PathLike[str] | None, keep_absolute: bool
    ) -> None:
        if media_root is not None and not os.path.isdir(media_root):
            raise ValueError(f"the media root {os.fspath(media_root)!r} is no folder")
        folder = os.path.dirname(os.path.realpath(path))
        self._roots = [folder] if media_root is None else [os.path.realpath(media_root), folder]
        self._keep_absolute = keep_absolute

    def media(self, media: Media) -> Media:
        """Return a picture with the path at which it is."""
        return media if media.path is None else replace(media, path=self._find(media.path)[0])

    def frames(self, video: tuple[Media, ...], count: int) -> tuple[Media, ...]:
        """Return at most `count` frames of a video: of these, or of the folder that the only one of them is."""
        if len(video) > 1 or video[0].path is None:
            return tuple(self.media(video[position]) for position in sampled(len(video), count))
        folder, root = self._find(video[0].path)
        if os.path.isdir(folder):
            root = root or os.path.realpath(folder)
            with suppress(ValueError):
                names = frame_names(folder, count)
                return tuple(Media(path=resolve(root, os.path.join(folder, name))) for name in names)
        return (replace(video[0], path=folder),)

    def _find(self, path: str) -> tuple[str, str | None]:
        """Return the file or folder that a path means, and the root it lies in, None if it is missing.

        Raises:
            ValueError: it leads out of the root.
        """
        if self._keep_absolute and os.path.isabs(path):
            return path, None
        # As `resolve` treats absolute paths: of these the longest end that exists counts.
        relative = path.lstrip("/")
        for root in self._roots:
            with suppress(ValueError):
                return resolve(root, "/" + relative), root
        root = self._roots[0]
        expected = os.path.join(root, relative)
        if os.path.commonpath([root, os.path.realpath(expected)]) != root:
            raise ValueError(f"{excerpt(path)} leads out of the media root {root!r}")
        return expected, None
