"""The data files of a data set: of a folder as Hugging Face `datasets` or the Hub has it, or of a name on the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from r1reward_verl.data.readers import READERS
from r1reward_verl.errors import R1RewardError
from r1reward_verl.text import excerpt

_ABOUT = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def data_files(inputs: Sequence[str | os.PathLike[str]], split: str | None = None) -> list[str]:
    """Return the data files that inputs mean, in the order of their names.

    A file means itself. A folder means the files in it and below it: what `Dataset.save_to_disk` writes
    (`data-00000-of-00001.arrow`, of several splits a folder each), or a copy of a data set of the Hub
    (`train-00000-of-00004.parquet`). Anything else that looks like `owner/name` is a data set on the Hub: it is
    downloaded by `datasets`, into its cache and without running code of its authors.

    Args:
        inputs: files, folders, names on the Hub.
        split: which split of folders and names; None where there is only one.

    Raises:
        ValueError: several splits and none named, or none of that name; a folder without data files.
        R1RewardError: the data set cannot be downloaded.
    """
    files: list[str] = []
    for given in [os.fspath(one) for one in inputs]:
        if os.path.isdir(given):
            files += _of_folder(Path(given), split)
        elif _HUB_NAME.fullmatch(given) and not os.path.exists(given) and Path(given).suffix not in (*READERS, ".gz"):
            files += _of_hub(given, split)
        else:
            files.append(given)
    return files


def _of_folder(folder: Path, split: str | None) -> list[str]:
    by_split: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
        if path.is_file() and suffix in READERS and path.name not in _ABOUT and not hidden:
            by_split.setdefault(_split_of(relative), []).append(str(path))
    if not by_split:
        raise ValueError(f"the folder {str(folder)!r} holds no data files ({', '.join(READERS)})")
    return by_split[_chosen(str(folder), list(by_split), split)]


def _split_of(path: Path) -> str:
    shard = _SHARD.match(path.name)
    name = shard[1] if shard else path.name.partition(".")[0]
    # `save_to_disk` calls all shards data, and the folder has the name of the split.
    return path.parent.name if name == "data" else name


def _chosen(where: str, splits: list[str], split: str | None) -> str:
    if split is None and len(splits) > 1:
        raise ValueError(f"{where!r} holds {', '.join(splits)}: name one with --split, or give its files")
    if split is not None and split not in splits and splits != [""]:
        raise ValueError(f"{where!r} has no split {split!r}; there are: {', '.join(splits)}")
    return splits[0] if split is None or splits == [""] else split


def _of_hub(name: str, split: str | None) -> list[str]:
    import datasets  # takes seconds

    try:
        splits = datasets.get_dataset_split_names(name)
        data = datasets.load_dataset(name, split=_chosen(name, splits, split))
    except ValueError:
        raise
    except Exception as error:  # of requests, huggingface_hub, fsspec and datasets
        raise R1RewardError(
            f"{name!r} is no file, and as a data set of the Hugging Face Hub it cannot be read: {excerpt(str(error))}"
        ) from error
    return [file["filename"] for file in data.cache_files]
