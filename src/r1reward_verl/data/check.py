"""`r1reward data check FILE`: everything that is wrong with a data file, row by row.

FILE is what `r1reward data` writes, or another file in one of its forms: preferences, rows for verl's `main_ppo`, rows
for verl's SFT trainer. Its columns tell which. The exit code is 0 where nothing is wrong, 1 where something is, 2
where the command cannot be carried out; a warning alone changes nothing about it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from r1reward_verl.data.columns import column_faults
from r1reward_verl.data.duplicates import digest
from r1reward_verl.data.preference import Preference, from_row
from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.rows import (
    KINDS,
    Kind,
    columns_of,
    frames_of,
    kind_of,
    label_of,
    marks_of,
    media_of,
    named_label,
    number_of_rows,
    prompt_fault,
    trace_of,
)
from r1reward_verl.data.statistics import uneven
from r1reward_verl.judgement import Choice, build_prompt, parse
from r1reward_verl.media import Media, decoded, image_source, is_remote, look_at, resolve
from r1reward_verl.text import excerpt

if TYPE_CHECKING:
    from r1reward_verl.data.prompt_length import PromptLength

_THREADS = 8
_AHEAD = 32  # rows whose pictures are looked at before their turn
_VALUE, _REASON = 32, 400  # characters of a value and of a reason in the table

WAYS_OUT = {
    "file": "Write it again, or copy it anew",
    "columns": "Write the column with this type, or convert the file with `r1reward data convert`",
    "row": "Correct the row, or leave it out",
    "label": "Write 1 or 2, the better response",
    "messages": 'Write [{"role": "user", "content": …}, …]',
    "markers": "Write one marker into the text for each picture and video",
    "media": "Replace the file, or leave the row out",
    "sha256": "The file is not the one that was converted: restore it, or convert again",
    "trace": "Annotate the row again, or leave it out",
    "length": "Leave the row out, lower --max-pixels, or raise the limit here and in training",
    "duplicate": "Leave one of the two out",
    "id": "Give each preference of a source an id of its own",
}
"""Kinds of problems, and what to do about them."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        kind: key of `WAYS_OUT`.
        row: its number, from 1 on (of jsonl and CSV: its line); 0 for the file as a whole.
        column: where it stands, "" if in no particular one.
        value: the value, shortened; "" where there is none to show.
        reason: what is wrong with it.
    """

    kind: str
    row: int
    column: str
    value: str
    reason: str

    @property
    def way_out(self) -> str:
        """What to do about it."""
        return WAYS_OUT[self.kind]


@dataclass
class Result:
    """What a check found.

    Attributes:
        file: that was checked.
        kind: what it holds; None if its columns do not tell.
        rows: that were looked at.
        seconds: it took.
        problems: how many of each kind.
        shown: the first of each kind.
        warnings: what is not wrong, but easily meant otherwise.
        labels: how often each response is the better one.
        longest: tokens and number of the longest row, None if none was measured.
        bound: tokens a row may have.
    """

    file: str
    kind: Kind | None = None
    rows: int = 0
    seconds: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)
    shown: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    longest: tuple[int, int] | None = None
    bound: int | None = None

    def __str__(self) -> str:
        lines = [*_table(self.shown)]
        for kind, many in self.problems.most_common():
            there = sum(problem.kind == kind for problem in self.shown)
            more = f" (the first {there:,} are shown)" if there < many else ""
            lines.append(f"{many:>9,}  {kind}{more}. {WAYS_OUT[kind]}.")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if labelled := sum(self.labels.values()):
            shares = ", ".join(f"{label}: {self.labels[label] / labelled:.1%}" for label in (1, 2))
            lines.append(f"labels   {shares}")
        if self.longest is not None:
            tokens, row = self.longest
            lines.append(f"longest  {tokens:,} tokens (row {row:,}) of {self.bound:,}")
        what = KINDS[self.kind] if self.kind else "unknown"
        speed = f"{self.rows / self.seconds:,.0f} rows/s" if self.seconds else ""
        total = sum(self.problems.values())
        verdict = f"{total:,} problem{'s' * (total != 1)}" if total else "no problems"
        lines.append(f"{self.file}: {what}, {self.rows:,} rows, {verdict} ({self.seconds:.1f} s, {speed})")
        return "\n".join(lines)


def _table(problems: Iterable[Problem]) -> Iterator[str]:
    rows = [
        (f"{problem.row:,}" if problem.row else "", problem.column, _cut(problem.value, _VALUE), problem)
        for problem in sorted(problems, key=lambda problem: problem.row)
    ]
    if not rows:
        return
    header = ("row", "column", "value")
    widths = [max(len(str(row[place])) for row in (header, *rows)) for place in range(3)]
    yield f"{header[0]:>{widths[0]}}  {header[1]:<{widths[1]}}  {header[2]:<{widths[2]}}  problem"
    for number, column, value, problem in rows:
        text = f"{_cut(problem.reason, _REASON)}. {problem.way_out}."
        yield f"{number:>{widths[0]}}  {column:<{widths[1]}}  {value:<{widths[2]}}  {text}"
    yield ""


def _cut(text: str, length: int) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def recipe(name: str) -> Mapping[str, Any]:
    """Return the section `data` of one of the project's recipes."""
    from omegaconf import OmegaConf

    content = OmegaConf.create((files("r1reward_verl.recipes") / "recipe" / f"{name}.yaml").read_text("utf-8"))
    section = OmegaConf.to_container(content.data, resolve=False)
    assert isinstance(section, dict)
    return section


@dataclass
class _Picture:
    """A picture or frame of a row, and what was found about it."""

    column: str
    entry: Any
    source: Any
    """Bytes or path; None for what stands in no file of this machine."""
    sha256: str | None = None
    """As the row has it."""
    video: int | None = None
    found: str | None = None
    """The sha256 of the file."""
    size: tuple[int, int] | None = None

    @property
    def remote(self) -> bool:
        """Whether it stands at an address."""
        return is_remote(self.source) and not self.source.startswith("data:")


@dataclass
class _Row:
    """A row on its way through the check."""

    number: int
    problems: list[Problem] = field(default_factory=list)
    label: Choice | None = None
    better_first: bool | None = None
    """Which of the two texts is the better one, whatever their order."""
    texts: tuple[str, ...] = ()
    """What makes two rows the same, besides their media."""
    identity: tuple[str, ...] | None = None
    messages: list[dict[str, Any]] | None = None
    pictures: list[_Picture] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    rows: int = 1

    def wrong(self, kind: str, column: str, value: Any, reason: str) -> None:
        self.problems.append(Problem(kind, self.number, column, "" if value is None else excerpt(value), reason))


def _read(item: Any, kind: Kind) -> _Row:
    if isinstance(item, RowError):
        row = _Row(item.number, rows=item.rows or 0)
        row.wrong("row" if item.rows == 1 else "file", "", item.raw, item.reason)
        return row
    number, values = item
    row = _Row(number)
    {"preferences": _read_preference, "rl": _read_rl, "sft": _read_sft}[kind](row, values)
    return row


def _read_preference(row: _Row, values: Mapping[str, Any]) -> None:
    try:
        preference = from_row(values)
    except ValueError as error:
        reason = str(error)
        first = reason.split(" ", 1)[0]
        column = first if first in values else "images" if first == "media" else ""
        row.wrong("label" if column == "label" else "row", column, values.get(column), reason)
        return
    row.label = preference.label
    responses = sorted((preference.response_1, preference.response_2))
    row.better_first = responses[0] == (preference.response_1, preference.response_2)[preference.label - 1]
    row.texts = (preference.question, *responses, str(len(preference.images)))
    row.identity = (preference.source, preference.id)
    row.messages = [{"role": "user", "content": _prompt(preference)}]
    row.pictures = [_media_picture("images", media) for media in preference.images]
    if preference.video is not None:
        row.videos = [{}]
        row.pictures += [_media_picture("video", media, 0) for media in preference.video]
    if preference.trace is not None:
        _check_trace(row, "trace", preference.trace, preference.label)


def _prompt(preference: Preference) -> str:
    markers = "<image>" * len(preference.images) + "<video>" * (preference.video is not None)
    return markers + build_prompt(preference.question, preference.response_1, preference.response_2)


def _media_picture(column: str, media: Media, video: int | None = None) -> _Picture:
    return _Picture(column, None, media.data or media.path, media.sha256, video)


def _read_rl(row: _Row, values: Mapping[str, Any]) -> None:
    if not isinstance(values.get("data_source"), str) or not values["data_source"]:
        row.wrong("row", "data_source", values.get("data_source"), "the name of a source is needed")
    try:
        row.label = label_of(values)
        row.better_first = row.label == 1
    except ValueError as error:
        model = values.get("reward_model")
        found = model.get("ground_truth") if isinstance(model, Mapping) else model
        row.wrong("label", "reward_model", found, str(error))
    _read_messages(row, values, "prompt", str(values.get("data_source")))


def _read_sft(row: _Row, values: Mapping[str, Any]) -> None:
    _read_messages(row, values, "messages", "")
    if row.messages is None:
        return
    try:
        trace = trace_of(values)
    except ValueError as error:
        row.wrong("messages", "messages", None, str(error))
        return
    known = named_label(values)
    _check_trace(row, "messages", trace, known)
    row.label = known or parse(trace).choice


def _check_trace(row: _Row, column: str, trace: str, label: Choice | None) -> None:
    verdict = parse(trace)
    if verdict.choice is None:
        row.wrong("trace", column, trace[-_VALUE:], f"it is no judgement ({verdict.reason})")
    elif label is not None and verdict.choice != label:
        row.wrong("trace", column, verdict.choice, f"it names response {verdict.choice}, and the label is {label}")


def _read_messages(row: _Row, values: Mapping[str, Any], column: str, source: str) -> None:
    messages = values.get(column)
    media: dict[str, list[Any]] = {}
    for name in ("images", "videos"):
        try:
            media[name] = media_of(values, name)
        except ValueError as error:
            row.wrong("media", name, values[name], str(error))
            return
    markers = {"<image>": ("images", media["images"]), "<video>": ("videos", media["videos"])}
    if fault := prompt_fault(messages, column, markers):
        row.wrong("markers" if isinstance(messages, list) else "messages", column, None, fault[0])
    elif not messages or not all(isinstance(one.get("role"), str) and one.get("content") for one in messages):
        row.wrong("messages", column, messages, "each message needs a role and a content")
    else:
        row.messages = [{"role": one["role"], "content": one["content"]} for one in messages]
    about = values.get("extra_info")
    if isinstance(about, Mapping):
        key = next((about[name] for name in ("id", "pair_id") if about.get(name) is not None), None)
        if key is not None:
            # Validation rows come in both orders.
            row.identity = (str(about.get("source") or source), str(key), str(about.get("order")))
    row.texts = (json.dumps(messages, default=str),)
    row.pictures = [_Picture("images", entry, image_source(entry)) for entry in media["images"]]
    row.videos = media["videos"]
    for place, video in enumerate(row.videos):
        row.pictures += [_Picture("videos", video, image_source(frame), video=place) for frame in frames_of(video)]


class _Files:
    """Looks at the pictures of rows; thread-safe."""

    def __init__(self, root: str | None, open_them: bool) -> None:
        self.root = root
        self.open_them = open_them
        # Data sets ask several questions about a picture, mostly in rows that follow each other.
        self._look_at = lru_cache(maxsize=4096)(look_at)

    def look(self, row: _Row) -> None:
        for picture in row.pictures:
            try:
                self._look(picture)
            except ValueError as error:
                # Pictures as bytes are not shown: nobody knows one by its beginning.
                value = picture.source if isinstance(picture.source, str) else None
                row.wrong("media", picture.column, value, str(error))
                continue
            if picture.sha256 and picture.found and picture.found != picture.sha256:
                reason = f"its sha256 is {picture.found[:12]}…, the row has {picture.sha256[:12]}…"
                row.wrong("sha256", picture.column, picture.source, reason)

    def _look(self, picture: _Picture) -> None:
        source = picture.source
        if isinstance(source, str) and source.startswith("data:"):
            source = decoded(source)
        if isinstance(source, bytes):
            if self.open_them:
                picture.found, picture.size = look_at(source)
            else:
                picture.found = hashlib.sha256(source).hexdigest()
        elif is_remote(source):
            return
        elif not isinstance(source, str):
            raise ValueError(
                f"missing: {excerpt(picture.entry)} holds neither the bytes of an encoded picture nor a path"
            )
        elif self.open_them:
            path = source.removeprefix("file://")
            if self.root is not None and not os.path.isabs(path):
                path = resolve(self.root, path)
            if not os.path.exists(path):
                raise ValueError(f"the file {excerpt(path)} does not exist")
            # A video that was not sampled yet is a folder of frames, or a file that is no picture.
            if picture.video is None or not _is_video(path):
                picture.found, picture.size = self._look_at(path)


_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".ts", ".ogv", ".wmv")


def _is_video(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith(_VIDEOS)


def _in_turn(rows: Iterable[_Row], files: _Files, pool: ThreadPoolExecutor) -> Iterator[_Row]:
    """Yield the rows in their order, their pictures looked at by the pool, a few rows ahead at most."""
    waiting: deque[tuple[_Row, Future[None] | None]] = deque()

    def first() -> _Row:
        row, future = waiting.popleft()
        if future is not None:
            future.result()
        return row

    for row in rows:
        if files.open_them and row.pictures:
            waiting.append((row, pool.submit(files.look, row)))
        else:
            files.look(row)
            waiting.append((row, None))
        while waiting and (waiting[0][1] is None or len(waiting) > _AHEAD):
            yield first()
    while waiting:
        yield first()


class _Run:
    """What is known so far: compares each row with those before it, measures it and counts what is wrong."""

    def __init__(self, result: Result, limit: int, file: IO[str] | None, length: PromptLength | None) -> None:
        self.result, self.limit, self.file, self.length = result, limit, file, length
        self.contents: dict[bytes, int] = {}
        self.ids: dict[bytes, int] = {}
        self.unmeasured = self.addresses = 0

    def add(self, problem: Problem) -> None:
        self.result.problems[problem.kind] += 1
        if self.result.problems[problem.kind] <= self.limit:
            self.result.shown.append(problem)
        if self.file is not None:
            self.file.write(json.dumps({**asdict(problem), "way_out": problem.way_out}, ensure_ascii=False) + "\n")

    def finish(self, row: _Row) -> None:
        self.result.rows += row.rows
        if row.label is not None:
            self.result.labels[row.label] += 1
        if row.texts:
            self._compare(row)
        self.addresses += any(picture.remote for picture in row.pictures)
        if self.length is not None and row.messages is not None:
            self._measure(row, self.length)
        for problem in row.problems:
            self.add(problem)

    def _compare(self, row: _Row) -> None:
        keys = [picture.found or picture.sha256 or str(picture.source) for picture in row.pictures]
        here = row.number << 1 | bool(row.better_first)
        first = self.contents.setdefault(digest(*row.texts, *keys), here)
        if first != here:
            opposite = ", with the opposite label" if first & 1 != here & 1 else ""
            row.wrong("duplicate", "", None, f"the same as row {first >> 1:,}{opposite}")
        elif row.identity is not None:
            first = self.ids.setdefault(digest(*row.identity), row.number)
            if first != row.number:
                row.wrong("id", "", row.identity[1], f"row {first:,} has this id, with another content")

    def _measure(self, row: _Row, length: PromptLength) -> None:
        from r1reward_verl.data.prompt_length import Limits, Size, limits_of

        images: list[tuple[Size, Limits]] = []
        videos: list[list[Size]] = [[] for _ in row.videos]
        for picture in row.pictures:
            if picture.size is None:
                self.unmeasured += not row.problems
                return
            if picture.video is None:
                images.append((picture.size, limits_of(picture.entry)))
            else:
                videos[picture.video].append(picture.size)
        frames = [(tuple(sizes), limits_of(video)) for sizes, video in zip(videos, row.videos, strict=True)]
        assert row.messages is not None
        try:
            tokens = length.count(row.messages, images, frames)
        except Exception as error:  # whatever a chat template or processor makes of it; verl would drop the row
            row.wrong("length", "", None, f"the model's processor cannot read it: {error}")
            return
        if self.result.longest is None or tokens > self.result.longest[0]:
            self.result.longest = tokens, row.number
        if self.result.bound is not None and tokens > self.result.bound:
            row.wrong("length", "", None, f"{tokens:,} tokens, more than {self.result.bound:,}")

    def warn(self) -> None:
        result = self.result
        if result.kind and (found := uneven(result.labels)):
            result.warnings.append(
                f"{found[1]:.1%} of the labels are {found[0]}, which a model learns; 50% are meant "
                "(`r1reward data select` balances)"
            )
        if self.unmeasured:
            result.warnings.append(f"{self.unmeasured:,} rows were not measured: not all of their media are pictures")
        if self.addresses:
            result.warnings.append(f"{self.addresses:,} rows have pictures at addresses, which were not looked at")


def check(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    media_root: str | os.PathLike[str] | None = None,
    media: bool = True,
    max_prompt_length: int | None = None,
    max_length: int | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    limit: int = 20,
    json_file: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Result:
    """Look at every row of a data file.

    A file whose columns do not fit is looked at no further.

    Args:
        path: file as `read_rows` reads it.
        model: folder or name of the checkpoint whose processor measures the rows; None measures none.
        media_root: folder below which relative paths are meant; None for the working directory, as verl does.
        media: whether pictures are opened as far as their header, and hashed.
        max_prompt_length: tokens that a prompt may have (preferences: in the project's own prompt). This and all
            that follow are the recipes' where they are None.
        max_length: tokens that prompt and judgement of an SFT row may have.
        min_pixels: of a picture, as the processor is told.
        max_pixels: as well.
        limit: problems of each kind that `Result.shown` keeps.
        json_file: jsonl file for all of them; there when it is complete.
        progress: whether to show a bar; None for on terminals only.

    Raises:
        ValueError, FileNotFoundError, OSError: an argument cannot be used, or `json_file` not be written.
    """
    from PIL import Image
    from tqdm import tqdm

    start = time.monotonic()
    rows = read_rows(path)
    if model is not None and not media:
        raise ValueError("prompts are measured with their pictures: leave out either the model or --no-media")
    if media_root is not None and not os.path.isdir(media_root):
        raise ValueError(f"the media root {os.fspath(media_root)!r} is no folder")
    result = Result(os.fspath(path))
    with ExitStack() as stack:
        file = None
        if json_file is not None:
            partial = Path(f"{os.fspath(json_file)}.partial")
            stack.callback(partial.unlink, missing_ok=True)
            file = stack.enter_context(partial.open("w", encoding="utf-8", errors="backslashreplace"))
        run = _Run(result, limit, file, None)
        if _check_columns(run):
            assert result.kind is not None
            if model is not None:
                run.length, result.bound = _length(
                    result.kind, model, max_prompt_length, max_length, min_pixels, max_pixels
                )
            root = None if media_root is None else os.path.realpath(media_root)
            # Their sizes are looked at in any case; here, since filters are the process's and not a thread's.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="media"))
            hidden = None if progress is None else not progress
            bar = stack.enter_context(closing(tqdm(total=number_of_rows(path), unit="row", disable=hidden)))
            kind = result.kind
            for row in _in_turn((_read(item, kind) for item in rows), _Files(root, media), pool):
                run.finish(row)
                bar.update()
            if not result.rows and not result.problems:
                run.add(Problem("file", 0, "", "", "it has no rows"))
            run.warn()
        if file is not None:
            file.close()
            partial.replace(Path(json_file))  # type: ignore[arg-type]
    result.seconds = time.monotonic() - start
    return result


def _check_columns(run: _Run) -> bool:
    """Find out what the file holds; return whether its rows can be looked at."""
    result = run.result
    try:
        columns = columns_of(result.file)
    except ValueError as error:
        run.add(Problem("file", 0, "", "", str(error)))
        return False
    result.kind = kind_of(columns)
    if result.kind is None:
        known = "; ".join(f"{what}: {', '.join(marks_of(kind))}" for kind, what in KINDS.items())
        reason = f"its columns are of no known kind (there are: {', '.join(columns)}; {known})"
        run.add(Problem("columns", 0, "", "", reason))
    elif result.file.endswith(".parquet"):
        from pyarrow import parquet

        for name, reason in column_faults(parquet.read_schema(result.file), result.kind):
            run.add(Problem("columns", 0, name, "", reason))
    return not result.problems


def _length(
    kind: Kind,
    model: str,
    max_prompt_length: int | None,
    max_length: int | None,
    min_pixels: int | None,
    max_pixels: int | None,
) -> tuple[PromptLength, int]:
    """Return what measures the rows of a file, and the bound of their lengths."""
    from r1reward_verl.data.prompt_length import PromptLength

    given = recipe("cold_start" if kind == "sft" else "r1_reward")
    pixels = given["mm_processor_kwargs"]
    least = pixels["min_pixels"] if min_pixels is None else min_pixels
    most = pixels["max_pixels"] if max_pixels is None else max_pixels
    if not 0 < least <= most:
        raise ValueError(f"pictures of {least:,} to {most:,} pixels: the bounds must be positive, the lower one first")
    asked = max_length if kind == "sft" else max_prompt_length
    bound = given["max_length" if kind == "sft" else "max_prompt_length"] if asked is None else asked
    try:
        return PromptLength(model, least, most, whole=kind == "sft"), bound
    except (OSError, ValueError) as error:
        raise ValueError(f"the processor of {model!r} cannot be loaded: {error}") from error


def _parser() -> argparse.ArgumentParser:
    rl, sft = recipe("r1_reward"), recipe("cold_start")
    parser = argparse.ArgumentParser(
        prog="r1reward data check",
        description="Say everything that is wrong with a data file: preferences, or what verl trains on.",
        epilog="exit code: 0 nothing is wrong, 1 something is, 2 this command cannot be carried out",
    )
    parser.add_argument("file", metavar="FILE", help="a file of `r1reward data`, or another one of its forms")
    parser.add_argument("--model", help="folder or name of the model whose processor measures the rows")
    parser.add_argument(
        "--max-prompt-length",
        type=int,
        metavar="N",
        help=f"tokens of a prompt (default: the recipe's {rl['max_prompt_length']})",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help=f"tokens of prompt and judgement in an SFT file (default: the recipe's {sft['max_length']})",
    )
    for name in ("min_pixels", "max_pixels"):
        default = rl["mm_processor_kwargs"][name]
        text = f"bound of a picture's size (default: the recipe's {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    parser.add_argument("--media", metavar="ROOT", help="folder below which relative paths are meant")
    parser.add_argument("--no-media", action="store_true", help="open no pictures")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="problems of each kind to show (default: %(default)s)"
    )
    parser.add_argument("--json", metavar="OUT", help="write all problems to this jsonl file, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `r1reward data check`."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        result = check(
            options.file,
            model=options.model,
            media_root=options.media,
            media=not options.no_media,
            max_prompt_length=options.max_prompt_length,
            max_length=options.max_length,
            min_pixels=options.min_pixels,
            max_pixels=options.max_pixels,
            limit=options.limit,
            json_file=options.json,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(result)
    return 1 if result.problems else 0
