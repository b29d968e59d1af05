"""The one reader of pictures and videos: entries of data files, headers, contents, frames.

Nothing is fetched, and no picture is decoded whose header tells a size beyond Pillow's bound on decompression bombs.
Pillow and PyAV are imported where a file is opened.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any

import msgspec

from r1reward_verl.text import check_text, excerpt

if TYPE_CHECKING:
    from PIL.Image import Image

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGE = 16_000_000  # pixels of pictures that are decoded one at a time: of eight at once some would not fit
MAX_PIXELS = 640 * 28 * 28
"""Pixels of the largest picture that is sent: the reference's budget in training."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""What vision models are trained on. Pillow reads more, among them PostScript, for which it starts a program."""

_REMOTE = re.compile(r"(?i)(?!file:)[a-z][a-z0-9+.-]*://|(https?|hdfs|s3|data):")
_COCO = re.compile(r"(?:COCO_(train2014|val2014|test2014)_)?[0-9]{12}\.jpg")
MAX_SIDES = 200
"""Largest ratio of the sides of a picture, as `smart_resize` of Qwen2-VL has it."""
MAX_FILE = 64 << 20
"""Bytes of the largest picture file."""
MAX_VIDEO_FRAMES = 100_000
"""Frames of the longest video file that is decoded (an hour at 25 to 30 frames a second)."""

_BEGINNINGS = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG"),
    "gif": re.compile(rb"GIF8"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "bmp": re.compile(rb"BM"),
    "tiff": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "mp4": re.compile(rb"....ftyp", re.DOTALL),
}

_CHUNK = 1 << 20
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"})
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"


class Media(msgspec.Struct, frozen=True, rename={"data": "bytes"}):
    """A picture, a frame, or a video that is still to be cut into frames.

    Attributes:
        path: of a file, or for a video also of a folder of frames; relative paths are meant below the media root.
        data: the encoded file itself. Exactly one of `path` and `data` is given.
        sha256: of the file's content, 64 hexadecimal digits in lower case; None as long as nobody has opened it.

    Raises:
        ValueError: none or both of path and data, an empty one, an address (nothing is fetched), or a malformed
            sha256.
    """

    path: str | None = None
    data: bytes | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError(f"media needs either a path or data, not {'neither' if self.path is None else 'both'}")
        if self.data is not None and (not isinstance(self.data, bytes) or not self.data):
            raise ValueError(f"media data is {excerpt(self.data)}; the bytes of an encoded file are needed")
        if self.path is not None:
            check_text("media path", self.path)
            if "\0" in self.path:
                raise ValueError(f"media path {excerpt(self.path)} holds a null character")
            if _ADDRESS.match(self.path):
                raise ValueError(
                    f"media path {excerpt(self.path)} is an address, and nothing is fetched: download it first"
                )
        if self.sha256 is not None and not (isinstance(self.sha256, str) and SHA256.fullmatch(self.sha256)):
            raise ValueError(f"media sha256 is {excerpt(self.sha256)}, not 64 hexadecimal digits in lower case")


def file_kind(data: bytes) -> str | None:
    """Return jpeg, png, gif, webp, bmp, tiff or mp4 by the first bytes of a file, None for another."""
    return next((kind for kind, beginning in _BEGINNINGS.items() if beginning.match(data)), None)


class _Refused(ValueError):
    """A reason of this module's own, as opposed to the ValueErrors of the libraries that read files."""


@contextmanager
def _opened(source: str | bytes) -> Iterator[tuple[IO[bytes], Image]]:
    """Open a picture file (path or content), its header read and its pixels undecoded.

    Raises:
        ValueError: no regular file, larger than `MAX_FILE`, not in one of `FORMATS`, or of more pixels than Pillow's
            bound on decompression bombs; also for whatever goes wrong with the picture while it is open.
    """
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    name = f"{len(source):,} bytes" if isinstance(source, bytes) else excerpt(source)
    bomb = f"a picture of more than {pillow.MAX_IMAGE_PIXELS or 0:,} pixels ({name})"
    try:
        with _regular_file(source) as file:
            if (size := file.seek(0, os.SEEK_END)) > MAX_FILE:
                raise _Refused(f"a picture of {size:,} bytes, more than {MAX_FILE:,} ({name})")
            file.seek(0)
            picture = pillow.open(file, formats=FORMATS)
            if pillow.MAX_IMAGE_PIXELS and picture.width * picture.height > pillow.MAX_IMAGE_PIXELS:
                raise _Refused(f"{bomb}: {picture.width:,} x {picture.height:,}")
            yield file, picture
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning):
        raise ValueError(bomb) from None
    except UnidentifiedImageError:
        raise ValueError(f"not a JPEG, PNG, GIF, WebP, BMP or TIFF picture ({name})") from None
    except (_Refused, MemoryError):
        raise
    except Exception as error:  # whatever a format's reader makes of a damaged file
        raise ValueError(f"a picture that cannot be read ({name}: {type(error).__name__}: {error})") from error


def _regular_file(source: str | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        mode = os.stat(source).st_mode
    except FileNotFoundError:
        raise _Refused(
            f"the picture {excerpt(source)} does not exist (relative paths are looked up in the working directory)"
        ) from None
    # A pipe would be waited for without end.
    if stat.S_ISDIR(mode):
        raise _Refused(f"{excerpt(source)} is a folder; let `r1reward data convert` take the frames of videos")
    if not stat.S_ISREG(mode):
        raise _Refused(f"{excerpt(source)} is a device, not a file")
    return open(source, "rb")


def check_sides(size: tuple[int, int]) -> None:
    """Raise ValueError for a picture whose sides differ so much that Qwen's processors refuse it, and verl fails."""
    if max(size) > MAX_SIDES * min(size):
        raise ValueError(
            f"a picture of {size[0]:,} x {size[1]:,} pixels, one side more than {MAX_SIDES} times the other, which "
            "Qwen's processors refuse in training"
        )


def check_training_picture(source: str | bytes) -> str:
    """Return the sha256 of a picture that can be trained on (see `look_at` and `check_sides`)."""
    sha256, size = look_at(source)
    check_sides(size)
    return sha256


def look_at(source: str | bytes) -> tuple[str, tuple[int, int]]:
    """Return the sha256 of a picture file (path or content), and its width and height; its pixels stay undecoded.

    Raises:
        ValueError: see `load_image`.
    """
    digest = hashlib.sha256()
    with _opened(source) as (file, picture):
        file.seek(0)
        while piece := file.read(_CHUNK):
            digest.update(piece)
        return digest.hexdigest(), picture.size


def sampled(total: int, count: int) -> list[int]:
    """Return the positions of at most `count` of `total` things, evenly from the first to the last."""
    if total <= count:
        return list(range(total))
    return [index * (total - 1) // max(count - 1, 1) for index in range(count)]


def frame_names(folder: str, count: int) -> list[str]:
    """Return the names of `count` pictures of a folder (fewer if it has fewer), evenly sampled.

    They are sorted by name, numbers in it by value: `frame_9.jpg` comes before `frame_10.jpg`.

    Raises:
        ValueError: no picture in it, or it cannot be read.
    """
    try:
        names = [name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES]
    except OSError as error:
        raise ValueError(f"the folder of frames {excerpt(folder)} cannot be read: {error}") from error
    names = sorted((name for name in names if not name.startswith(".")), key=_by_number)
    if not names:
        raise ValueError(f"no picture in the folder of frames {excerpt(folder)}")
    return [names[position] for position in sampled(len(names), count)]


def _by_number(name: str) -> tuple[list[tuple[str, int]], str]:
    pieces = re.split(r"([0-9]+)", name)
    return [(text, int(number)) for text, number in zip(pieces[::2], [*pieces[1::2], "-1"], strict=True)], name


def video_frames(source: str | bytes, count: int) -> Iterator[bytes]:
    """Yield `count` frames of a video file (path or content; fewer if it has fewer), evenly sampled, as JPEG files.

    Raises:
        ValueError: not a video file that PyAV reads, too large or too long a one, or PyAV is not installed. Playlists,
            which name other files and addresses, are none.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(f"video files need PyAV (pip install av), or a folder of frames instead: {error}") from error

    name = f"{len(source):,} bytes" if isinstance(source, bytes) else excerpt(source)
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    frames = 0
    try:
        with _regular_file(source) as file:
            # Not every container says how many frames it has: packets are counted, which decodes nothing.
            total = 0
            with av.open(file, container_options=options) as container:
                for packet in container.demux(container.streams.video[0]):
                    total += packet.size > 0
                    if total > MAX_VIDEO_FRAMES:
                        raise _Refused(f"a video of more than {MAX_VIDEO_FRAMES:,} frames ({name}): cut it first")
            wanted = set(sampled(total, count))
            file.seek(0)
            with av.open(file, container_options=options) as container:
                stream = container.streams.video[0]
                _check_frame(stream.codec_context, name)
                for position, frame in enumerate(container.decode(stream)):
                    if position in wanted:
                        _check_frame(frame, name)
                        buffer = io.BytesIO()
                        image: Any = frame.to_image()
                        image.save(buffer, "JPEG", quality=95)
                        frames += 1
                        yield buffer.getvalue()
    except _Refused:
        raise
    except Exception as error:  # PyAV's are of many classes
        raise ValueError(f"not a video that can be read ({name}: {error or type(error).__name__})") from error
    if not frames:
        raise ValueError(f"a video without frames ({name})")


def _check_frame(frame: object, name: str) -> None:
    from PIL import Image

    width, height = getattr(frame, "width", 0), getattr(frame, "height", 0)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise _Refused(f"a video of more than {Image.MAX_IMAGE_PIXELS:,} pixels a frame ({name})")


def resolve(root: str, path: str) -> str:
    """Return the file or folder below `root` that a path of a data set means.

    Args:
        root: folder without symlinks in its own path (`os.path.realpath`).
        path: relative to `root`. Of an absolute path of the author's machine the longest end that exists below
            `root` counts, at the least the file name. The same holds for pictures of COCO, whose names are unique;
            one of 2014 may also be in the folder that its name tells (`train2014`).

    Raises:
        ValueError: nothing is there, or `..` or a symlink leads out of `root`.
    """
    if os.path.isabs(path) and _below(root, path) and os.path.exists(path):
        return path
    ends = [path]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    coco = _COCO.fullmatch(parts[-1]) if parts else None
    if os.path.isabs(path) or coco:
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
    if coco and coco[1]:
        ends.append(f"{coco[1]}/{parts[-1]}")
    for end in ends:
        file = os.path.join(root, end)
        if not _below(root, file):
            raise ValueError(f"{excerpt(path)} leads out of the media root {root!r}")
        if os.path.exists(file):
            return file
    raise ValueError(f"no file {excerpt(path)} below the media root {root!r}")


def _below(root: str, path: str) -> bool:
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip("/") + "/")


def image_source(image: Any) -> Any:
    """Return the encoded bytes or the path (or address) of one entry of a row's images, None where it has neither.

    Bytes come before paths, and `image` before `path`, as in verl.
    """
    if not isinstance(image, Mapping):
        return image
    values = (image.get(name) for name in ("bytes", "image", "image_url", "path"))
    return next((value for value in values if value is not None), None)


def is_remote(source: Any) -> bool:
    """Tell whether a source is an address instead of a path of this machine."""
    return isinstance(source, str) and _REMOTE.match(source) is not None


def addresses(value: Any) -> Iterator[str]:
    """Yield the addresses of the network among a row's media, or the media parts of a message; data URIs are none."""
    if isinstance(value, str):
        if is_remote(value) and not value.startswith("data:"):
            yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name != "text":
                yield from addresses(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from addresses(part)


def missing_file(source: str | os.PathLike[str]) -> str | None:
    """Say that a path leads to no file, or return None; `file://` before it is understood."""
    path = os.fspath(source).removeprefix("file://")
    return None if os.path.isfile(path) else f"the picture {path!r} does not exist"


def load_image(image: Any) -> Image:
    """Return the decoded picture behind one entry of a row's images.

    Raises:
        ValueError: neither bytes nor a path; no regular file, larger than `MAX_FILE`, not in one of `FORMATS`, damaged,
            or of more pixels than Pillow's bound on decompression bombs (told from its header, before any of it is
            decoded). Addresses are not paths.
    """
    source = image_source(image)
    if isinstance(source, str | os.PathLike):
        source = os.fspath(source).removeprefix("file://")
    elif not isinstance(source, bytes):
        raise ValueError(f"missing: {image!r} holds neither the bytes of an encoded picture nor a path")
    with _opened(source) as (_, picture):
        picture.load()
        return picture


def decoded(uri: str) -> bytes:
    """Return the content of a data URI.

    Raises:
        ValueError: it is not base64.
    """
    try:
        return base64.b64decode(uri.partition("base64,")[2], validate=True)
    except ValueError as error:
        raise ValueError(f"a data URI that cannot be decoded: {error}") from None


def for_verl(image: Any) -> Any:
    """Put one entry of a row's images into the form that verl and `qwen_vl_utils` read.

    They know no `path`, and take `bytes` that are null for an encoded picture. Size limits stay beside the picture.
    """
    if not isinstance(image, Mapping):
        return image
    given = {name: value for name, value in image.items() if value is not None}
    path = given.pop("path", None)
    if path is not None and not {"bytes", "image", "image_url"} & given.keys():
        given["image"] = path
    return given


def data_uri(media: Media, max_pixels: int = MAX_PIXELS) -> str:
    """Return a picture as a data URI of at most `max_pixels`, for an `image_url` part of a chat message.

    A JPEG, PNG, WebP or GIF of no more pixels is sent as it is. Others are scaled down, and become JPEG if they were
    that, else PNG; of an animation the first picture is sent.

    Raises:
        ValueError: the file is missing, too large, of another content than its sha256 says, or no picture; a folder
            or video from which no frames were taken.
    """
    source = str(media.path) if media.data is None else media.data
    with _opened(source) as (file, picture):
        file.seek(0)
        data = file.read()
        if hashlib.sha256(data).hexdigest() != (media.sha256 or hashlib.sha256(data).hexdigest()):
            raise _Refused(f"the picture {excerpt(source)} is not the one it was: its sha256 is another")
        form, animated = str(picture.format), getattr(picture, "is_animated", False)
        with _one_at_a_time if picture.width * picture.height > _LARGE else nullcontext():
            decoded_picture = load_image(data)  # also where it is sent as it is: a damaged one is of no use
            if picture.width * picture.height > max_pixels or animated or form not in ("JPEG", "PNG", "WEBP", "GIF"):
                form, data = _encoded(decoded_picture, "JPEG" if form == "JPEG" else "PNG", max_pixels)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data).decode()}"


_one_at_a_time = threading.Lock()


def _encoded(picture: Any, form: str, max_pixels: int) -> tuple[str, bytes]:
    # Who reads the file turns it as before, or does not, as before.
    exif = picture.info.get("exif", b"")
    if picture.mode not in ("L", "RGB", "RGBA"):
        transparent = "A" in picture.getbands() or "transparency" in picture.info
        picture = picture.convert("RGBA" if transparent and form == "PNG" else "RGB")
    width, height = picture.size
    if width * height > max_pixels:
        factor = math.sqrt(max_pixels / (width * height))
        width = min(max(int(width * factor), 1), max_pixels)
        height = min(max(int(height * factor), 1), max_pixels // width)
        picture = picture.resize((width, height))
    file = io.BytesIO()
    picture.save(file, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))
    return form, file.getvalue()


def thumbnail(image: Any, side: int, root: str | None = None) -> bytes:
    """Return a copy of a picture with sides of at most `side` pixels as a PNG or JPEG file, whichever is smaller.

    Args:
        image: as `load_image` takes it, or a data URI.
        side: in pixels.
        root: folder of relative paths, without symlinks in its own path; None for the working directory.

    Raises:
        OSError, ValueError: as `resolve` and `load_image`.
    """
    source = image_source(image)
    if isinstance(source, str) and source.startswith("data:"):
        source = decoded(source)
    elif isinstance(source, str):
        source = source.removeprefix("file://")
        if root is not None and not os.path.isabs(source):
            source = resolve(root, source)
    copy = load_image(source).convert("RGB")
    copy.thumbnail((side, side))
    files = []
    for settings in ({"format": "PNG"}, {"format": "JPEG", "quality": 80}):
        buffer = io.BytesIO()
        copy.save(buffer, **settings)
        files.append(buffer.getvalue())
    return min(files, key=len)
