"""The data files, as far as a look before the run reaches."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from r1reward_verl.data.readers import RowError, read_rows
from r1reward_verl.data.rows import prompt_fault
from r1reward_verl.judgement import FIELDS, parse_label
from r1reward_verl.media import addresses, image_source, is_remote, load_image, missing_file
from r1reward_verl.plugin.preflight.config import (
    OWN_DATASET,
    Problem,
    about_tilde,
    agreement_wanted,
    config_value,
    data_files,
    dataset_class,
    is_positive,
)
from r1reward_verl.plugin.preflight.hardware import ray_cluster

# Their pictures are decoded; reading them takes well under a second. Labels and paths are checked in all rows.
FIRST_ROWS = 16


def check_data(config: DictConfig) -> Iterator[Problem]:
    """The data files: their columns, all labels, that all pictures on disk exist, and the first rows in full."""
    for key in ("data.train_files", "data.val_files"):
        if key == "data.val_files" and config_value(config, key) == config_value(config, "data.train_files"):
            continue
        paths = data_files(config, key)
        if not paths:
            yield missing_data(key)
        rows: int | None = 0
        for path in paths:
            count = yield from _check_file(config, key, path)
            rows = None if count is None or rows is None else rows + count
        batch = config_value(config, "data.train_batch_size")
        if key == "data.train_files" and paths and rows is not None and is_positive(batch) and rows < batch:
            yield Problem(
                key,
                f"{rows} rows do not fill one batch of data.train_batch_size={batch}",
                "Give more rows or a smaller batch",
            )


def _check_file(config: DictConfig, key: str, path: str) -> Generator[Problem, None, int | None]:
    """Yield the first problem of a data file; return its number of rows, None where unknown."""
    if not path.endswith((".parquet", ".json", ".jsonl")):
        yield Problem(key, f"{path!r} ends in none of .parquet, .json, .jsonl", "verl reads no other files: convert it")
        return None
    if "://" in path:
        return None
    if path.endswith((".json", ".jsonl")) and Path(path).exists():
        return (yield from _check_json(config, key, path))
    if isinstance(file := open_parquet(key, path), Problem):
        yield file
        return None
    import pyarrow

    columns = file.schema_arrow.names
    prompt_key = config_value(config, "data.prompt_key") or "prompt"
    # What verl's dataset and reward loop read from every row.
    needed = [prompt_key, config_value(config, "data.reward_fn_key") or "data_source", "reward_model"]
    if config_value(config, "data.prompt_template") is not None:
        needed.append("extra_info")
    if missing := [name for name in needed if name not in columns]:
        yield Problem(
            key,
            f"{path!r} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {', '.join(columns)}",
            "Rewrite the file with these columns, or name yours with data.prompt_key, data.image_key, "
            "data.reward_fn_key",
        )
        return None
    image_key = config_value(config, "data.image_key") or "images"
    read = list(dict.fromkeys([*needed, *([image_key] if image_key in columns else [])]))
    try:
        batch = next(file.iter_batches(batch_size=FIRST_ROWS, columns=read), None)
        faults = itertools.chain(
            _row_faults(config, [] if batch is None else batch.to_pylist(), prompt_key, image_key),
            _label_faults(config, file),
            address_faults(config, file),
            _path_faults(config, file, image_key),
            _order_faults(config, file) if key == "data.train_files" else (),
        )
        fault = next(faults, None)
    except (OSError, pyarrow.ArrowException) as error:
        yield Problem(key, f"{path!r}: the rows cannot be read ({error})", "Write the file again")
        return None
    if fault is not None:
        number, value, way_out = fault
        yield Problem(f"{key}, {path!r}, row {number}", value, way_out)
    return file.metadata.num_rows


def missing_data(key: str) -> Problem:
    """Say that no data file is given."""
    return Problem(key, "not set", f"Give a parquet file: {key}=/path/to/file.parquet")


def open_parquet(key: str, path: str) -> Any:
    """Return an open `pyarrow.parquet.ParquetFile`, or the `Problem` with it."""
    import pyarrow
    import pyarrow.parquet

    if not Path(path).exists():
        return Problem(key, f"{path!r} does not exist{about_tilde(path)}", "Give the path of a parquet file")
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        return Problem(key, f"{path!r} cannot be read as parquet ({reason})", "Give a parquet file")


def _check_json(config: DictConfig, key: str, path: str) -> Generator[Problem, None, int | None]:
    """Yield the first label or address that ends the run; return the number of rows, None after a problem."""
    prompt_key = config_value(config, "data.prompt_key") or "prompt"
    items = 0
    for item in read_rows(path):
        items += 1
        if isinstance(item, RowError):  # verl's reader says so itself
            continue
        number, row = item
        faults = [_label_fault(config, row)]
        for column in (*_media_columns(config), prompt_key):
            fetched = _fetched(config, _parts(row, column) if column == prompt_key else row.get(column))
            faults.append(fetched and (f"{column}: {fetched[0]}", fetched[1]))
        if fault := next(filter(None, faults), None):
            yield Problem(f"{key}, {path!r}, line {number}", *fault)
            return None
    return items


_Fault = tuple[int, str, str]  # number of the row, what is wrong with it, the way out


def _row_faults(
    config: DictConfig, rows: Iterable[Mapping[str, Any]], prompt_key: str, image_key: str
) -> Iterator[_Fault]:
    """Yield what is wrong with whole rows; their labels and the paths of their pictures are checked elsewhere."""
    for number, row in enumerate(rows):
        if "extra_info" in row:  # read only where a template has to be filled
            texts = row["extra_info"] or {}
            for field in FIELDS:
                if not isinstance(texts.get(field), str):
                    value = f"extra_info.{field} is {texts.get(field)!r}; data.prompt_template needs the text"
                    yield number, value, "Export the data with it, or set data.prompt_template=null"
        images = row.get(image_key) or []
        for image in images:
            if reason := image_fault(image):
                yield number, f"{image_key}: {reason}", "Replace the picture or drop the row"
        if fault := prompt_fault(row[prompt_key], prompt_key, {"<image>": (image_key, images)}):
            yield number, *fault


def _label_faults(config: DictConfig, file: Any) -> Iterator[_Fault]:
    """Yield the labels of a whole parquet file that the reward manager cannot read."""
    leaf = "reward_model.ground_truth"
    column = leaf if any(name.startswith(leaf) for name in _leaves(file, "reward_model")) else "reward_model"
    for number, row in _rows(file, [column]):
        if fault := _label_fault(config, row):
            yield number, *fault


def _label_fault(config: DictConfig, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Say that the reward manager cannot read the label of a row, and the way out; None where it can."""
    if config_value(config, "reward.reward_manager.name") != "r1_reward":
        return None
    try:
        parse_label((row.get("reward_model") or {}).get("ground_truth"))
    except (AttributeError, ValueError) as error:
        return f"label: {error}", "Write 1 or 2, the better response, into reward_model.ground_truth"
    return None


def _order_faults(config: DictConfig, file: Any) -> Iterator[_Fault]:
    """Yield rows whose preference has no other order in their batch, if rewards come from there and many have none."""
    batch = config_value(config, "data.train_batch_size")
    if not agreement_wanted(config) or not is_positive(batch):
        return
    leaf = "extra_info.pair_id"
    pairs = []
    if leaf in _leaves(file, "extra_info"):
        pairs = [(row["extra_info"] or {}).get("pair_id") for _, row in _rows(file, [leaf])]
    alone: list[int] = []
    for start in range(0, len(pairs), batch):
        rows = pairs[start : start + batch]
        counts = Counter(rows)
        alone += [start + number for number, pair in enumerate(rows) if pair is None or counts[pair] < 2]
    # A batch of odd size divides one preference.
    if not pairs or len(alone) > 0.1 * len(pairs):
        value = f"{len(alone) or 'all'} rows have no other order of their preference in their batch of {batch}, as "
        value += "reward.r1_reward.agreement_weight needs"
        yield alone[0] if alone else 0, value, "Select the rows with `r1reward data select --rl-balance both`"


def _parts(row: Mapping[str, Any], prompt_key: str) -> list[Any]:
    """Return the contents of a row's messages that are parts instead of a text."""
    messages = [message for message in row.get(prompt_key) or [] if isinstance(message, Mapping)]
    return [content for message in messages if not isinstance(content := message.get("content"), str)]


def _media_columns(config: DictConfig) -> tuple[str, str]:
    return config_value(config, "data.image_key") or "images", config_value(config, "data.video_key") or "videos"


_NO_ADDRESS = ("bytes", "text", "role", "type")
"""Fields of messages and pictures in which no address is looked up."""


def _fetched(config: DictConfig, media: Any) -> tuple[str, str] | None:
    """Say that verl would fetch media from the network, and the way out; None where it would not, or may."""
    address = next(addresses(media), None)
    if address is None or config_value(config, "data.allow_remote_media"):
        return None
    return (
        f"{address!r} is an address, which verl would fetch",
        "Embed it as bytes or give a path, or set +data.allow_remote_media=true if you trust all addresses",
    )


def address_faults(config: DictConfig, file: Any) -> Iterator[_Fault]:
    """Yield the media of a whole parquet file that stand at addresses, without reading encoded pictures."""
    prompt_key = config_value(config, "data.prompt_key") or "prompt"
    for column in (*_media_columns(config), prompt_key):
        leaves = [leaf for leaf in _leaves(file, column) if leaf.rpartition(".")[2] not in _NO_ADDRESS]
        if column == prompt_key:  # plain texts are read by nobody as an address
            leaves = [leaf for leaf in leaves if ".content." in leaf]
        for number, row in _rows(file, leaves) if leaves else ():
            if fault := _fetched(config, _parts(row, column) if column == prompt_key else row[column]):
                yield number, f"{column}: {fault[0]}", fault[1]


def _path_faults(config: DictConfig, file: Any, image_key: str) -> Iterator[_Fault]:
    """Yield the pictures of a whole parquet file that should be read from a path and cannot be.

    The encoded pictures of a file can be larger than memory: they are not read, unless some pictures have bytes, some
    have none and those have a path.
    """
    leaves = _leaves(file, image_key)
    if not leaves:
        return
    embedded = next((leaf for leaf in leaves if leaf.endswith(".bytes")), None)
    # A list of plain paths has one leaf, the element.
    paths = [leaf for leaf in leaves if leaf.rpartition(".")[2] in ("image", "path")] or leaves
    if embedded is not None:
        if paths == [embedded]:
            return
        nulls = _nulls(file, embedded)
        if nulls == sum(not row[image_key] for _, row in _rows(file, paths[:1])):
            return  # every picture has its bytes
        if nulls != _values(file, embedded):
            paths.append(embedded)
    own, cluster = dataset_class(config) is not None, ray_cluster(config)
    known: set[str] = set()
    for number, row in _rows(file, paths, batch_size=64 if embedded in paths else 8192):
        for image in row[image_key] or []:
            source = image_source(image)
            if isinstance(source, bytes) or is_remote(source) or source in known:
                continue
            if source is None:
                yield number, f"{image_key}: missing: neither bytes nor a path", "Embed the picture or drop the row"
            elif cluster is not None and not source.removeprefix("file://").startswith("/"):
                value = f"{image_key}: {source!r} is relative, and on a Ray cluster that is another folder"
                yield number, value, "Write absolute paths, or embed the bytes"
            elif reason := missing_file(source):
                yield number, f"{image_key}: {reason}", "Replace the picture or drop the row"
            elif not own and isinstance(image, Mapping) and (embedded is not None or image.get("image") is None):
                path, name = OWN_DATASET
                value = f"{image_key}: {source!r}: verl's own dataset reads no `path`"
                yield number, value, f"Set data.custom_cls.path={path} data.custom_cls.name={name}, or embed the bytes"
            else:
                known.add(source)


def _leaves(file: Any, column: str) -> list[str]:
    """Return the dotted paths of the parquet columns that make up an Arrow column."""
    paths = (file.schema.column(index).path for index in range(len(file.schema)))
    return [path for path in paths if path.split(".")[0] == column]


def _statistics(file: Any, leaf: str) -> list[tuple[int, int | None]]:
    """Return number of values and of nulls (None: unknown) of a leaf in each row group; an empty list is a null."""
    index = next(index for index in range(len(file.schema)) if file.schema.column(index).path == leaf)
    chunks = [file.metadata.row_group(group).column(index) for group in range(file.metadata.num_row_groups)]
    return [
        (chunk.num_values, chunk.statistics.null_count if chunk.is_stats_set and chunk.statistics else None)
        for chunk in chunks
    ]


def _values(file: Any, leaf: str) -> int:
    return sum(values for values, _ in _statistics(file, leaf))


def _nulls(file: Any, leaf: str) -> int | None:
    nulls = [null_count for _, null_count in _statistics(file, leaf)]
    return None if None in nulls else sum(nulls)  # type: ignore[arg-type]


def _rows(file: Any, columns: list[str], batch_size: int = 8192) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of each row, a batch of few columns at a time in memory."""
    number = 0
    for batch in file.iter_batches(batch_size=batch_size, columns=columns):
        for row in batch.to_pylist():
            yield number, row
            number += 1


def image_fault(image: Any) -> str | None:
    """Say why `r1reward_verl.media.load_image` cannot read a picture, or None; addresses pass, unfetched."""
    if is_remote(image_source(image)):
        return None
    try:
        load_image(image)
    except ValueError as error:
        return str(error)
    return None
