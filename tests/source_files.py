"""Small files of the same form as each public data set's: real field names and file formats, invented content.

`write(folder)` makes them: source name -> its files. Pictures named by path lie below `folder / "media"`.
"""

import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from factories import png


def prompt_text(question, response_1, response_2, level="######"):
    return (
        "Compare the two responses.\n\n"
        f"{level} **Input:**  \n"
        f"{level} [Question]:\n{question}  \n\n"
        f"{level} [Response 1]:\n{response_1}  \n\n"
        f"{level} [Response 2]:\n{response_2}  \n\n"
        f"{level} **Output Format (strictly follow):**  \n"
        "<think>comparison</think><answer>1/2</answer>"
    )


def r1_reward_rl(question, response_1, response_2, answer, path="/home/author/data/RLAIF-V-image/two-birds.jpg"):
    parts = [
        {"type": "text", "text": prompt_text(question, response_1, response_2)},
        {"type": "image", "image": path},
    ]
    return {
        "question": question,
        "message": json.dumps([{"role": "user", "content": parts}]),
        "answer": [f"<answer>{answer}</answer>"],
        "image": base64.b64encode(png()).decode(),
    }


R1_REWARD_RL = [
    r1_reward_rl("Which bird is bigger?", "The left one.", "The right one,\n\nby far.", 2),
    r1_reward_rl("What colour is it?", "Green.", "Red.", 1, "/home/author/data/povid/000017.jpg"),
]

MM_RLHF_PAIRS = [
    {
        "id": "harbour_0012_88",
        "image": "long/harbour_0012.png",
        "prompt": "<image>\nHow many boats are moored?",
        "chosen": "Three boats.",
        "rejected": "Seven boats and a lighthouse.",
        "chosen_reason": "Right count.",
        "rejected_reason": "Invents a lighthouse.",
    },
    {
        "id": "clipA_2_7",
        "video": "video/clipA",
        "prompt": "What happens at the end?",
        "chosen": "The door closes.",
        "rejected": "A dog runs in.",
    },
]

MM_RLHF_RANKINGS = [
    {
        "id": "harbour_0012",
        "question": "How many boats are moored?",
        "answer": "",
        "image": "long/harbour_0012.png",
        "video": "",
        "models_output": ["Three boats.", "Seven boats.", "Some boats.", "A few boats."],
        "faithfulness": [5, 1, 4, 4],
        "helpfulness": [5, 2, 3, 3],
        "ethical": [5, 5, None, 5],
        "final_ranking": [1, 3, 2, 2],
        "score_reasons": ["a", "b", "c", "d"],
        "ranking_reason": "The counts.",
    }
]

RLAIF_V = [
    {
        "ds_name": "RLAIF-V",
        "image": {"bytes": png("brown"), "path": "RLAIF-V_17.jpg"},
        "question": "What is on the shelf?",
        "chosen": "Two jars.",
        "rejected": "Two jars and a cat.",
        "origin_dataset": "COCO",
        "origin_split": '{"model": "a", "type": "question_answer"}',
        "idx": "17",
        "image_path": "000000000017.jpg",
    }
]


def annotation(helpfulness, ethics, faithfulness):
    names = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    ratings = (helpfulness, ethics, faithfulness)
    return {name: {"Rating": rating, "Rationale": "…"} for name, rating in zip(names, ratings, strict=True)}


VL_FEEDBACK = [
    {
        "id": "svit-conversation-4",
        "prompt": "What sport is it?",
        "models": ["m1", "m2", "m3", "m4"],
        "completions": {
            "annotations": [
                annotation("3", "5", "4"),  # 4
                annotation("5", "5", "5"),  # 5
                annotation("4", "4", "4"),  # 4
                annotation("1", "3", "1"),  # 5/3
            ],
            "model": ["m1", "m2", "m3", "m4"],
            "response": ["Tennis.", "Tennis, on clay.", "A racket sport.", "Golf."],
        },
        "image": {"bytes": png("orange"), "path": None},
    }
]


def povid_turns(*texts):
    return [{"from": who, "value": text} for who, text in zip(("human", "gpt") * len(texts), texts, strict=False)]


POVID = [
    {
        "id": "COCO_train2014_000000000123",
        "image": "./data/coco/COCO_train2014_000000000123.jpg",
        "conversations": povid_turns("<image>\nDescribe the kitchen.", "A white stove and a sink."),
        "rejected_conversations": povid_turns("<image>\nDescribe the kitchen.", "A stove, a sink and four plates."),
    }
]


def chat(*texts):
    return [
        {"role": who, "content": text} for who, text in zip(("user", "assistant") * len(texts), texts, strict=False)
    ]


def battle(winner, **changes):
    return {
        "question_id": "0f3c9a",
        "model_a": "vlm-x",
        "model_b": "vlm-y",
        "conversation_a": chat("Read the sign.", "Closed."),
        "conversation_b": chat("Read the sign.", "Open."),
        "language": "English",
        "image": {"bytes": png("blue"), "path": None},
        "turn": 1,
        "anony": True,
        "winner": winner,
        "tstamp": 1709251200,
        "judge": "arena_user_12",
        **changes,
    }


WILDVISION_BATTLE = [battle("model_a"), battle("model_b", question_id="11"), battle("tie (bothbad)"), battle("tie")]

RLHF_V = [
    {
        "ds_name": "RLHF-V",
        "image": {"bytes": png("pink"), "path": "1.jpg"},
        "text": json.dumps({"question": "What is it?", "chosen": "A cup.", "rejected": "A cup and a spoon."}),
        "origin_dataset": "LLaVA-v1.5",
        "idx": 4,
    }
]


def critic(prompt, judgement, identity):
    image = {"bytes": png("teal"), "path": None}
    turns = povid_turns(f"<image>\n{prompt}", judgement)
    return {"id": identity, "source": "VLFeedback", "image": image, "conversations": turns}


def bracketed(question, first, second):
    return (
        "Judge the answers.\nYour task is provided as follows:\n"
        f"Question: [{question}]\nThe first response: [{first}]\nThe second response: [{second}]\nASSISTANT:\n"
    )


LLAVA_CRITIC = [
    critic(bracketed("What [sic] is it?", "A cup.", "A cat."), "It is a cup. The better response: [first].", "v_1"),
    critic(
        "<|User Prompt|>\nWhat is it?\n\n<|The Start of Assistant A's Answer|>\nA cat.\n"
        "<|The End of Assistant A's Answer|>\n\n<|The Start of Assistant B's Answer|>\nA cup.\n"
        "<|The End of Assistant B's Answer|>",
        "My final verdict is: [[B>>A]].",
        "w_1",
    ),
    critic(
        "[Context]\nA cup.\n\n[Question]\nWhat is it?\n\n[Assistant 1]\nA cup.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nA cat.\n\n[End of Assistant 2]\n\n[System]\nRate both.",
        "8 3\nThe first one is right.",
        "b_1",
    ),
]

HH_RLHF = [
    {
        "chosen": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: What is tea?\n\nAssistant: A drink.",
        "rejected": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: What is tea?\n\nAssistant: A bird.",
    }
]

TRL = [
    {"chosen": chat("Name it.", "A kite."), "rejected": chat("Name it.", "A bird."), "source": "arena"},
    {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Name it."}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A kite."}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A bird."}]}],
        "images": ["short/kite.png"],
    },
]

SHAREGPT = [
    {
        "conversations": povid_turns("<image>Name it."),
        "chosen": {"from": "gpt", "value": "A kite."},
        "rejected": {"from": "gpt", "value": "A bird."},
        "images": ["short/kite.png"],
    }
]

MS_SWIFT = [
    {
        "messages": [{"role": "system", "content": "Be brief."}, *chat("<image>Name it.", "A kite.")],
        "rejected_response": "A bird.",
        "images": ["short/kite.png"],
    }
]

PLAIN = [
    {"question": "What is it?", "chosen": "A kite.", "rejected": "A bird.", "image": "short/kite.png"},
    {"question": "How many?", "chosen": 'Two, "maybe" three.', "rejected": "None,\nnot one.", "image": ""},
]


def write(folder):
    """Write a file of each form; return source name -> the files."""
    media = folder / "media"
    pictures = ["long/harbour_0012.png", "short/kite.png", "data/coco/COCO_train2014_000000000123.jpg"]
    for path in [*pictures, *(f"video/clipA/c01_{frame:04}.jpeg" for frame in range(1, 6))]:
        (media / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "grey").save(media / path)

    def parquet(name, rows):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
        return folder / name

    def jsonl(name, rows):
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return folder / name

    (folder / "povid.json").write_text(json.dumps(POVID, indent=2), "utf-8")
    return {
        "r1-reward-rl": [parquet("train-00000-of-00001.parquet", R1_REWARD_RL)],
        "mm-rlhf": [jsonl("dpo_pairs.jsonl", MM_RLHF_PAIRS), jsonl("data.jsonl", MM_RLHF_RANKINGS)],
        "rlaif-v": [parquet("RLAIF-V-Dataset_000.parquet", RLAIF_V)],
        "vl-feedback": [parquet("vl-feedback.parquet", VL_FEEDBACK)],
        "povid": [folder / "povid.json"],
        "wildvision-battle": [parquet("battle.parquet", WILDVISION_BATTLE)],
        "rlhf-v": [parquet("RLHF-V-Dataset.parquet", RLHF_V)],
        "llava-critic": [parquet("pairwise.parquet", LLAVA_CRITIC)],
        "hh-rlhf": [jsonl("hh.jsonl", HH_RLHF)],
        "trl": [jsonl("trl.jsonl", TRL)],
        "sharegpt": [jsonl("sharegpt.jsonl", SHAREGPT)],
        "ms-swift": [jsonl("swift.jsonl", MS_SWIFT)],
        "plain": [jsonl("plain.jsonl", PLAIN), parquet("plain.parquet", PLAIN)],
    }
