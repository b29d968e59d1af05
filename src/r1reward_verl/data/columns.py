"""Whether the columns of a parquet file can hold what a kind of data file needs, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from r1reward_verl.data.export import rl_schema, sft_schema
from r1reward_verl.data.preference import SCHEMA
from r1reward_verl.data.rows import MARKS, Kind

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
    columns = {
        name: (schema.field(name).type, name in ("images", "videos")) for name in (*MARKS[kind], "images", "videos")
    }
    if kind == "rl":
        columns["reward_model"] = (pa.struct([("ground_truth", pa.string())]), False)
    return columns


def _alternatives(name: str, kind: Kind, needed: pa.DataType) -> list[pa.DataType]:
    """Return the types that serve as well as the one that is needed."""
    import pyarrow as pa

    text = pa.string()
    if name == "label":
        return [needed, text]
    if name == "reward_model":
        return [needed, pa.struct([("ground_truth", pa.int64())])]
    if kind == "preferences" or name not in ("images", "videos"):
        return [needed]
    if name == "images":
        return [pa.list_(pa.struct([("bytes", pa.binary()), ("image", text), ("path", text)])), pa.list_(text)]
    return [needed, pa.list_(pa.list_(text)), pa.list_(text), pa.list_(pa.struct([("video", text)]))]


def _fits(given: pa.DataType, needed: pa.DataType, nullable: bool = True) -> bool:
    """Tell whether values of a type can be what is needed; lengths of integers and offsets do not matter."""
    from pyarrow import types

    if types.is_null(given):
        return nullable
    if types.is_dictionary(given):
        given = given.value_type
    if types.is_struct(needed):
        if not types.is_struct(given):
            return False
        wanted, there = ({one.name: one.type for one in struct.fields} for struct in (needed, given))
        common = wanted.keys() & there.keys()
        return bool(common) and all(_fits(there[name], wanted[name]) for name in common)
    if types.is_list(needed):
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(one(given) for one in lists) and _fits(given.value_type, needed.value_type)
    for family in (
        (types.is_string, types.is_large_string, types.is_string_view),
        (types.is_binary, types.is_large_binary, types.is_binary_view),
        (types.is_integer,),
    ):
        if family[0](needed):
            return any(one(given) for one in family)
    return bool(given.equals(needed))
