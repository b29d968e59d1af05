"""Whether the columns of a parquet file can hold what a kind of data file needs, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from r1reward_verl.data.export import rl_schema, sft_schema
from r1reward_verl.data.preference import SCHEMA
from r1reward_verl.data.rows import Kind

if TYPE_CHECKING:
    import pyarrow as pa


def column_faults(schema: pa.Schema, kind: Kind) -> Iterator[tuple[str, str]]:
    """Yield each column that is missing or of a type that cannot hold what is needed, and what is wrong with it."""
    for name, (needed, optional) in _columns(kind).items():
        if name not in schema.names:
            if not optional or kind == "preferences":
                yield name, f"no column {name!r}; {needed} is needed (there are: {', '.join(schema.names)})"
        elif not any(_fits(schema.field(name).type, one, optional) for one in _alternatives(name, kind, needed)):
            yield name, f"column {name!r} is {schema.field(name).type}; {needed} is needed"


def _columns(kind: Kind) -> dict[str, tuple[pa.DataType, bool]]:
    """Return type and "may be absent" (of preferences: "may be null") of each column that is read."""
    import pyarrow as pa

    if kind == "preferences":
        return {one.name: (one.type, one.nullable) for one in SCHEMA}
    schema = rl_schema(False) if kind == "rl" else sft_schema(False)
    names = ["prompt", "data_source", "reward_model"] if kind == "rl" else ["messages"]
    columns = {name: (schema.field(name).type, False) for name in names}
    if kind == "rl":
        columns["reward_model"] = (pa.struct([("ground_truth", pa.string())]), False)
    return columns | {name: (schema.field(name).type, True) for name in ("images", "videos")}


def _alternatives(name: str, kind: Kind, needed: pa.DataType) -> list[pa.DataType]:
    """Return the types that serve as well as the one that is needed."""
    import pyarrow as pa

    if name == "label":
        return [needed, pa.string()]
    if name == "reward_model":
        return [needed, pa.struct([("ground_truth", pa.int64())])]
    if kind == "preferences" or name not in ("images", "videos"):
        return [needed]
    if name == "images":
        picture = pa.struct([("bytes", pa.binary()), ("image", pa.string()), ("path", pa.string())])
        return [pa.list_(picture), pa.list_(pa.string())]
    frames = pa.list_(pa.string())
    return [needed, pa.list_(frames), frames, pa.list_(pa.struct([("video", pa.string())]))]


def _fits(found: pa.DataType, needed: pa.DataType, nullable: bool = True) -> bool:
    """Tell whether values of the type found can be what is needed; lengths of integers and offsets do not matter."""
    from pyarrow import types

    if types.is_null(found):
        return nullable
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_struct(needed):
        if not types.is_struct(found):
            return False
        there = {found.field(place).name: found.field(place).type for place in range(found.num_fields)}
        wanted = {needed.field(place).name: needed.field(place).type for place in range(needed.num_fields)}
        common = wanted.keys() & there.keys()
        return bool(common) and all(_fits(there[name], wanted[name]) for name in common)
    for is_type in (_is_list, _is_text, types.is_integer, _is_binary):
        if is_type(needed):
            return is_type(found) and (is_type is not _is_list or _fits(found.value_type, needed.value_type))
    return bool(found.equals(needed))


def _is_list(one: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_list(one) or types.is_large_list(one) or types.is_fixed_size_list(one)


def _is_text(one: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_string(one) or types.is_large_string(one) or types.is_string_view(one)


def _is_binary(one: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_binary(one) or types.is_large_binary(one) or types.is_binary_view(one)
