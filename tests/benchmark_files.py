"""Synthetic files of the benchmarks: their real columns, ids, paths and file formats, invented content.

`write(folder)` makes a small file of each form, `write(folder, full=True)` files with the benchmarks' own numbers of
rows per category, id and source. Nothing of the benchmarks themselves is in them.
"""

import json
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq

from factories import png
from r1reward_verl.data.preference import SCHEMA, Preference, to_row
from r1reward_verl.media import Media

# Counted in data.jsonl of the reference. The 25 ids that stand there twice are of mathverse (19) and mmmu (6).
VL_IDS = {
    "hallucination_pair-{}": 448,
    "RLAIF-V-{}": 233,
    "wildvision-battle-{}": 173,
    "mathverse_{}": 167,
    "mmmu_pro_test_Marketing_{}": 151,
    "RLHF-V-{}": 68,
    "jailbreak-typo-Fraud-{}": 7,
    "LRVInstruction-{:012}": 1,
    "politics-Gov_Decision-{}": 1,
    "svit-complex_reasoning-{}": 1,
}
VL_REPEATED = {"mathverse_{}": 19, "mmmu_pro_test_Marketing_{}": 6}
# Counted in mm_reward_bench.jsonl of the reference: rows of each id.
MM_IDS = {
    "mcq": (2, 3, 3, 4, 4, 5, 5, 5, 5, 6),
    "short": (2, 2, 2, 2, 2, 3, 5, 5, 5, 6),
    "long": (3, 3, 3, 3, 3, 4, 4, 4, 5, 5),
    "safety": (4, 5, 5, 6, 6, 6),
    "video": (2, 2, 2, 2, 2, 3, 3, 3, 3, 3),
}
# The sources' table of arXiv 2502.14191 without Hateful Memes; how coding and vqa divide into theirs is invented.
MULTIMODAL_SOURCES = (
    ("open_generation/correctness_task", "visitbench", 221),
    ("open_generation/correctness_task", "nocaps", 402),
    ("open_generation/preference_task", "visitbench", 265),
    ("open_generation/preference_task", "nocaps", 389),
    ("knowledge", "mmmu-s", 330),
    ("knowledge", "mmmu-v", 300),
    ("reasoning", "mathvista", 514),
    ("reasoning", "image2struct", 284),
    ("reasoning", "EMMA-Coding", 300),
    ("safety", "pairs", 508),
    ("vqa", "RealworldQA", 200),
    ("vqa", "MMBench", 500),
    ("vqa", "SEED-Bench", 498),
)
FRAMES = 40


def vl_rows(full=False):
    """The rows of the reference's jsonl; small: two of each kind of id."""
    ids = []
    for pattern, rows in VL_IDS.items():
        rows = rows if full else min(rows, 2)
        repeated = VL_REPEATED.get(pattern, 0) if full else pattern == "mathverse_{}"
        ids += [pattern.format(10 + number) for number in range(rows - repeated)]
        ids += [pattern.format(10 + number) for number in range(repeated)]
    return [
        {
            "id": identity,
            "prompt": f"What is in picture {line}?",
            "chosen": f"A kettle, {line}.",
            "rejected": f"A kettle and a cat, {line}.",
            "image": f"vl_reward/img/image_{line}.jpg",
            "chosen_reason": "",
            "rejected_reason": "",
        }
        for line, identity in enumerate(ids)
    ]


def vl_hub_rows(full=False):
    """The rows of Hugging Face `MMInstruction/VL-RewardBench`; the better response is the first of every other."""
    return [
        {
            "id": row["id"],
            "query": "<image>\n" + row["prompt"],
            "response": [row["chosen"], row["rejected"]][:: -1 if line % 2 else 1],
            "image": {"bytes": png(size=(8, 6 + line % 5)), "path": None},
            "human_ranking": [1, 0] if line % 2 else [0, 1],
            "models": ["model-a", "model-b"],
            "judge": "human",
            "rationale": "",
            "query_source": row["id"].lower(),
            "ground_truth": "",
        }
        for line, row in enumerate(vl_rows(full))
    ]


def mm_rows(full=False):
    """The rows of mm_reward_bench.jsonl; small: two ids of each kind, three rows of each."""
    rows = []
    for kind, sizes in MM_IDS.items():
        for number, size in enumerate(sizes if full else (3, 3)):
            for pair in range(size):
                media = {"video": f"video/clip{number}"} if kind == "video" else {"image": f"{kind}/{number:06}.png"}
                rows.append(
                    {
                        "id": f"{kind}{number:06}_6205145",
                        **media,
                        "prompt": f"How many boats are moored, {kind} {number}?",
                        "chosen": f"Three boats, {pair}.",
                        "rejected": f"Seven boats and a lighthouse, {pair}.",
                        "chosen_reason": "Right count.",
                        "rejected_reason": "Invents a lighthouse.",
                    }
                )
    return rows


def multimodal_rows(full=False):
    """The rows of all_data.json; small: one of each source in each category."""
    numbers = count(1)
    return [
        {
            "ID": f"{source}_{number}",
            "Category": category,
            "Text": f"Caption this, {number}.",
            "Image": f"images/{source}/{number}.jpg",
            "Output1": f"A red kettle, {number}.",
            "Output2": f"A blue kettle, {number}.",
            "Better": f"Output{1 + number % 2}",
        }
        for category, source, rows in MULTIMODAL_SOURCES
        for number, _ in zip(numbers, range(rows if full else 1), strict=False)
    ]


def videorewardbench_rows():
    """Rows in the columns that VideoRewardBench may have: one of each kind."""
    kinds = "Long-form Perception", "short_form_perception", "Knowledge", "reasoning", "safety"
    return [
        {"question": f"What happens, {kind}?", "chosen": "A.", "rejected": "B.", "video_path": "video/clip0"}
        | {"category": kind}
        for kind in kinds
    ]


def judgebench_rows():
    """The rows of JudgeBench's jsonl: one of each kind of source."""
    sources = "mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"
    return [
        {
            "pair_id": f"pair-{number}",
            "original_id": str(number),
            "source": source,
            "question": f"What is {number} times {number}?",
            "response_model": "model-a",
            "response_A": "Ten.",
            "response_B": "It depends.",
            "label": ("A>B", "B>A")[number % 2],
        }
        for number, source in enumerate(sources)
    ]


def rewardbench_2_rows():
    """The rows of RewardBench 2: a best of four, and the two of a prompt of Ties."""
    about = {"prompt": "Name a colour of the rainbow.", "models": ["model-a"], "additional_metadata": {}}
    wrong = ["Brown.", "Grey.", "Pink."]
    return [
        {"id": "7", **about, "subset": "Factuality", "chosen": ["Red."], "rejected": wrong, "num_correct": 1},
        {"id": "ref:0", **about, "subset": "Ties", "chosen": ["Red."], "rejected": wrong[:2], "num_correct": 1},
        {"id": "tied:0", **about, "subset": "Ties", "chosen": ["Red.", "Blue."], "rejected": wrong, "num_correct": 2},
    ]


def preferences(folder):
    """Preferences as `r1reward data convert` leaves them: media checked, paths absolute."""
    frames = tuple(Media(path=str(folder / f"media/video/clip0/c01_{frame:04}.jpeg")) for frame in range(1, FRAMES + 1))
    texts = {"question": "How many boats?", "response_1": "Three.", "response_2": "Seven."}
    return [
        Preference(
            "a", "mine", "counting", label=1, images=(Media(path=str(folder / "media/mcq/000000.png")),), **texts
        ),
        Preference("b", "mine", "counting", label=2, images=(Media(data=png()), Media(data=png("red"))), **texts),
        Preference("c", "mine", "film", label=2, video=frames, **texts),
        Preference("d", "mine", "text", label=1, **texts),
    ]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def parquet(path, rows, schema=None):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def write(folder, full=False, media=True):
    """Write a file of each form and, below `folder / "media"`, its media; return benchmark -> its files."""
    multimodal = multimodal_rows(full)
    inlined = [{**row, "Image": {"bytes": png(), "path": None}} for row in multimodal]
    (folder / "all_data.json").write_text(json.dumps(multimodal, indent=1), "utf-8")
    files = {
        "vl-rewardbench": [
            jsonl(folder / "data.jsonl", vl_rows(full)),
            parquet(folder / "test-00000-of-00001.parquet", vl_hub_rows(full)),
        ],
        "mm-rlhf-rewardbench": [
            jsonl(folder / "mm_reward_bench.jsonl", mm_rows(full)),
            parquet(
                folder / "train-00000-of-00001.parquet", [{"image": None, "video": None} | row for row in mm_rows(full)]
            ),
        ],
        "multimodal-rewardbench": [folder / "all_data.json", parquet(folder / "all_data.parquet", inlined)],
        "videorewardbench": [jsonl(folder / "videorewardbench.jsonl", videorewardbench_rows())],
        "rewardbench-2": [
            parquet(folder / "rb2.parquet", [{**row, "additional_metadata": None} for row in rewardbench_2_rows()])
        ],
        "judgebench": [jsonl(folder / "judgebench.jsonl", judgebench_rows())],
        "preferences": [parquet(folder / "preferences.parquet", list(map(to_row, preferences(folder))), SCHEMA)],
    }
    if media:
        write_media(folder / "media", full)
    return files


def write_media(root, full=False):
    """Write the pictures and frames that the files name."""
    named = [row["image"] for row in [*vl_rows(full), *mm_rows(full)] if "image" in row]
    named += [row["Image"] for row in multimodal_rows(full)]
    clips = {row["video"] for row in mm_rows(full) if "video" in row}
    named += [f"{clip}/c01_{frame:04}.jpeg" for clip in clips for frame in range(1, FRAMES + 1)]
    picture = png()
    for path in dict.fromkeys(named):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(picture)
