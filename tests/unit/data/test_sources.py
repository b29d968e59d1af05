"""What each data set's rows become, what is skipped, what is refused, and how a user's own source comes in."""

import base64
import json
import sys
import time
from itertools import combinations

import pytest
from msgspec.structs import replace

from factories import png
from r1reward_verl.data.preference import Preference
from r1reward_verl.data.readers import read_rows
from r1reward_verl.data.sources import GROUP, SOURCES, load_source, source_names
from r1reward_verl.data.sources.base import Skipped, read_media, read_media_list
from r1reward_verl.media import Media
from source_files import (
    HH_RLHF,
    LLAVA_CRITIC,
    MM_RLHF_PAIRS,
    MM_RLHF_RANKINGS,
    MS_SWIFT,
    PLAIN,
    POVID,
    R1_REWARD_RL,
    RLAIF_V,
    RLHF_V,
    SHAREGPT,
    TRL,
    VL_FEEDBACK,
    WILDVISION_BATTLE,
    annotation,
    battle,
    bracketed,
    chat,
    critic,
    povid_turns,
    prompt_text,
    r1_reward_rl,
    write,
)


def read(name, row, /, **options):
    return list(load_source(name, **options).read(row, 1))


def texts(preference):
    return preference.question, preference.response_1, preference.response_2, preference.label


# All sources


def read_file(source, path):
    """Return the preferences of a file and the reasons of what it skips."""
    found, skipped = [], []
    for number, row in read_rows(path):
        try:
            found.extend(source.read(row, number))
        except Skipped as reason:
            skipped.append(str(reason))
    return found, skipped


def test_files_of_every_form_are_read(tmp_path):
    files = write(tmp_path)
    assert files.keys() == SOURCES.keys()
    for name, paths in files.items():
        for path in paths:
            found, skipped = read_file(load_source(name), path)
            assert found, path
            assert {item.source for item in found} == {name}
            assert len(skipped) == (2 if name == "wildvision-battle" else 0)
            named = [one.path for item in found for one in (*item.images, *(item.video or ())) if one.path]
            assert all((tmp_path / "media" / place).exists() for place in named), "paths are kept below the root"


ROWS = {
    "r1-reward-rl": R1_REWARD_RL[0],
    "mm-rlhf": MM_RLHF_PAIRS[0],
    "mm-rlhf ranking": MM_RLHF_RANKINGS[0],
    "mm-rlhf video": MM_RLHF_PAIRS[1],
    "rlaif-v": RLAIF_V[0],
    "vl-feedback": VL_FEEDBACK[0],
    "povid": POVID[0],
    "wildvision-battle": WILDVISION_BATTLE[0],
    "rlhf-v": RLHF_V[0],
    "llava-critic": LLAVA_CRITIC[0],
    "llava-critic arena": LLAVA_CRITIC[1],
    "hh-rlhf": HH_RLHF[0],
    "trl": TRL[0],
    "trl with pictures": TRL[1],
    "sharegpt": SHAREGPT[0],
    "ms-swift": MS_SWIFT[0],
    "plain": PLAIN[0],
}
JUNK = [None, True, 7, 2.5, float("nan"), 10**400, "", " ", "x", "\ud83d", "[", "a\0b", "https://e.org/a.png", "data:x"]
JUNK += [b"", b"x", [], [None], [[]], ["x"], [7, "x"], {}, {"role": []}, [{"from": [], "value": {}}], {"bytes": 3}]


@pytest.mark.parametrize("case", ROWS)
def test_no_value_of_any_field_ends_a_run(case):
    source, row = load_source(case.split()[0]), ROWS[case]
    read_well = list(source.read(row, 1))
    assert read_well
    refused = 0
    for field in row:
        for junk in JUNK:
            try:
                found = list(source.read({**row, field: junk}, 1))
            except ValueError:
                refused += 1
            else:
                assert all(isinstance(item, Preference) for item in found)
        try:
            list(source.read({name: value for name, value in row.items() if name != field}, 1))
        except ValueError:
            refused += 1
    assert refused > 30
    with pytest.raises(ValueError, match=r"no column|neither an image nor"):
        list(source.read({}, 1))


@pytest.mark.parametrize("case", ROWS)
def test_ids_belong_to_the_row_and_not_to_its_place(case):
    source, row = load_source(case.split()[0]), ROWS[case]
    ids = [item.id for item in source.read(row, 1)]
    assert len(set(ids)) == len(ids)
    assert ids == [item.id for item in source.read(dict(reversed(row.items())), 99)]


def test_repeated_ids_of_other_pairs_become_different():
    row = MM_RLHF_PAIRS[0]
    (one,), (other,) = read("mm-rlhf", row), read("mm-rlhf", {**row, "rejected": "No boats."})
    assert one.id != other.id
    assert one.id.startswith("harbour_0012_88#")


# R1-Reward-RL


@pytest.mark.parametrize("level", ["####", "######"])
def test_r1_reward_rl_cuts_the_responses_out_of_the_prompt(level):
    row = r1_reward_rl("Which bird is bigger?", "", "", 2)
    parts = json.loads(row["message"])
    parts[0]["content"][0]["text"] = prompt_text("Which?", "The left [Response 2].", "Right,\n\n# by far.", level)
    (preference,) = read("r1-reward-rl", {**row, "message": json.dumps(parts)})
    assert texts(preference) == ("Which bird is bigger?", "The left [Response 2].", "Right,\n\n# by far.", 2)
    assert preference.category == "RLAIF-V-image"
    assert preference.images == (Media(data=png()),)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (base64.b64encode(png()).decode(), Media(data=png())),
        ("data:image/png;base64," + base64.b64encode(png()).decode(), Media(data=png())),
        ("birds/two-birds.jpg", Media("birds/two-birds.jpg")),
        ("/data/birds/two-birds.jpg", Media("/data/birds/two-birds.jpg")),
        (None, Media("/home/author/data/RLAIF-V-image/two-birds.jpg")),
        ("", Media("/home/author/data/RLAIF-V-image/two-birds.jpg")),
    ],
)
def test_r1_reward_rl_takes_the_picture_from_where_it_is(image, expected):
    (preference,) = read("r1-reward-rl", {**R1_REWARD_RL[0], "image": image})
    assert preference.images == (expected,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"message": "[{"}, "one chat message of one text"),
        ({"message": "[]"}, "one chat message of one text"),
        (
            {"message": json.dumps([{"content": [{"type": "video", "video": "v"}, {"type": "text", "text": "t"}]}])},
            "video",
        ),
        ({"message": r1_reward_rl("q", "a\n###### [Response 2]:\nb", "c", 1)["message"]}, "cannot be told apart"),
        ({"message": R1_REWARD_RL[0]["message"].replace("Output Format", "Output")}, "cannot be told apart"),
        ({"answer": ["<answer>1</answer>", "<answer>2</answer>"]}, "one label is needed"),
        ({"answer": []}, "one label is needed"),
        ({"answer": ["<answer>B</answer>"]}, "label '<answer>B</answer>'"),
        ({"answer": [None]}, "label None"),
        ({"image": "!" * 5000}, "neither a path nor base64"),
    ],
)
def test_r1_reward_rl_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        read("r1-reward-rl", {**R1_REWARD_RL[0], **changes})


# MM-RLHF


def test_mm_rlhf_pairs():
    (image,), (video,) = (read("mm-rlhf", row) for row in MM_RLHF_PAIRS)
    assert texts(image) == ("How many boats are moored?", "Three boats.", "Seven boats and a lighthouse.", 1)
    assert (image.category, image.images, image.video) == ("long", (Media("long/harbour_0012.png"),), None)
    assert (video.category, video.images, video.video) == ("video", (), (Media("video/clipA"),))


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("short/a.png", "short"),
        ("/data/longterm/long/mcq/a.png", "mcq"),
        ("mm/safety/x/a.png", "safety"),
        ("/data/longterm/a.png", "unknown"),
    ],
)
def test_mm_rlhf_category_is_a_whole_folder(path, category):
    assert read("mm-rlhf", {**MM_RLHF_PAIRS[0], "image": path})[0].category == category


def test_mm_rlhf_rankings_give_a_pair_for_each_two_ranks():
    row = MM_RLHF_RANKINGS[0]
    pairs = {(item.response_1, item.response_2) for item in read("mm-rlhf", row)}
    rank = dict(zip(row["models_output"], row["final_ranking"], strict=True))
    expected = {(a, b) for a in rank for b in rank if rank[a] < rank[b]}
    assert pairs == expected
    assert len(pairs) == 5  # of six, two have the same rank


def test_mm_rlhf_rankings_against_the_scores_are_refused():
    row = MM_RLHF_RANKINGS[0]
    with pytest.raises(ValueError, match=r"contradicts the sums of the scores .*dpo_pairs"):
        read("mm-rlhf", {**row, "final_ranking": [4 - rank for rank in row["final_ranking"]]})


@pytest.mark.parametrize(
    ("row", "changes", "kind", "message"),
    [
        (MM_RLHF_PAIRS[0], {"is_tie": True}, Skipped, "a tie"),
        (MM_RLHF_RANKINGS[0], {"final_ranking": [1, 1, 1, 1]}, Skipped, "different ranks"),
        (MM_RLHF_RANKINGS[0], {"final_ranking": [1, 2]}, ValueError, "equal length"),
        (MM_RLHF_RANKINGS[0], {"final_ranking": [1, "?", 2, 3]}, ValueError, r"final_ranking is '\?'"),
        (MM_RLHF_PAIRS[0], {"image": None}, ValueError, "neither an image nor a video"),
        (MM_RLHF_PAIRS[0], {"chosen": None}, ValueError, "chosen is None"),
        (MM_RLHF_PAIRS[0], {"prompt": "<image>"}, ValueError, "question is ''"),
    ],
)
def test_mm_rlhf_refuses(row, changes, kind, message):
    with pytest.raises(kind, match=message):
        read("mm-rlhf", {**row, **changes})


# RLAIF-V


def test_rlaif_v():
    (preference,) = read("rlaif-v", RLAIF_V[0])
    assert texts(preference) == ("What is on the shelf?", "Two jars.", "Two jars and a cat.", 1)
    assert preference.category == "COCO"
    assert preference.images == (Media(data=png("brown")),), "the path beside the bytes is a name only"


# VL-Feedback


def test_vl_feedback_gives_all_pairs_with_different_ratings():
    means = {"Tennis.": 4, "Tennis, on clay.": 5, "A racket sport.": 4, "Golf.": 5 / 3}
    pairs = [(item.response_1, item.response_2) for item in read("vl-feedback", VL_FEEDBACK[0])]
    assert len(pairs) == len(set(pairs))
    assert all(means[better] > means[worse] for better, worse in pairs)
    assert {frozenset(pair) for pair in pairs} == {
        frozenset(pair) for pair in combinations(means, 2) if means[pair[0]] != means[pair[1]]
    }


@pytest.mark.parametrize(("margin", "pairs"), [(0, 5), (1, 5), (1.1, 3), (3, 1), (3.4, 0)])
def test_vl_feedback_with_a_margin(margin, pairs):
    if not pairs:
        with pytest.raises(Skipped, match="no two ratings differ"):
            read("vl-feedback", VL_FEEDBACK[0], margin=margin)
    else:
        assert len(read("vl-feedback", VL_FEEDBACK[0], margin=margin)) == pairs


def test_vl_feedback_completions_may_be_a_list():
    row = VL_FEEDBACK[0]
    columns = row["completions"]
    listed = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert read("vl-feedback", {**row, "completions": listed}) == read("vl-feedback", row)


def test_vl_feedback_of_the_older_file_has_a_path():
    row = {**VL_FEEDBACK[0], "img_path": "svit/4.jpg"}
    del row["image"]
    assert {item.images for item in read("vl-feedback", row)} == {(Media("svit/4.jpg"),)}


@pytest.mark.parametrize("rating", ["N/A", "", None, "nan", "1e99"])
def test_vl_feedback_leaves_out_responses_without_a_rating_and_says_so(rating):
    row = VL_FEEDBACK[0]
    annotations = [annotation("5", rating, "5"), *row["completions"]["annotations"][1:]]
    row = {**row, "completions": {**row["completions"], "annotations": annotations}}
    found = []
    with pytest.raises(Skipped, match="response 1: Ethical Considerations is"):
        found.extend(load_source("vl-feedback").read(row, 1))
    assert len(found) == 3, "what was yielded before stays"
    assert not any("Tennis." in (item.response_1, item.response_2) for item in found)


# POVID


def test_povid_has_its_marker_removed():
    (preference,) = read("povid", POVID[0])
    assert texts(preference) == (
        "Describe the kitchen.",
        "A white stove and a sink.",
        "A stove, a sink and four plates.",
        1,
    )
    assert preference.images == (Media("./data/coco/COCO_train2014_000000000123.jpg"),)
    behind = povid_turns("Describe the kitchen.\n<image>", "A stove.")
    row = {
        **POVID[0],
        "conversations": behind,
        "rejected_conversations": [behind[0], {"from": "gpt", "value": "A car."}],
    }
    assert read("povid", row)[0].question == "Describe the kitchen."


def test_several_turns_are_kept_where_only_the_last_answers_differ():
    history = ["<image>\nWho is it?", "A cook.", "What does she hold?"]
    row = {
        **POVID[0],
        "conversations": povid_turns(*history, "A pan."),
        "rejected_conversations": povid_turns(*history, "A pen."),
    }
    (preference,) = read("povid", row)
    question, *responses, _ = texts(preference)
    assert responses == ["A pan.", "A pen."]
    assert "<image>" not in question
    assert [question.index(text) for text in ("Who is it?", "A cook.", "What does she hold?")] == sorted(
        question.index(text) for text in ("Who is it?", "A cook.", "What does she hold?")
    )


@pytest.mark.parametrize(
    ("rejected", "message"),
    [
        (povid_turns("<image>\nAnother question?", "A."), "different questions"),
        (povid_turns("Q?"), "not of user and assistant by turns"),
        ([{"from": "tool", "value": "x"}], "'from' and 'value'"),
        (povid_turns("<image>\nDescribe the kitchen.", 7), "holds 7, which is no text"),
        (povid_turns("<image>\nDescribe the kitchen.", "A white stove and a sink."), "same text"),
        (povid_turns("<image>\nDescribe the kitchen.", ""), "response_2 is ''"),
    ],
)
def test_povid_refuses(rejected, message):
    with pytest.raises(ValueError, match=message):
        read("povid", {**POVID[0], "rejected_conversations": rejected})


# WildVision-Battle


@pytest.mark.parametrize(("winner", "label"), [("model_a", 1), ("model_b", 2)])
def test_wildvision_battle(winner, label):
    (preference,) = read("wildvision-battle", battle(winner))
    assert texts(preference) == ("Read the sign.", "Closed.", "Open.", label)
    assert preference.images == (Media(data=png("blue")),)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (battle("tie"), Skipped, r"a tie \(winner is 'tie'\)"),
        (battle("tie (bothbad)"), Skipped, r"a tie \(winner is 'tie \(bothbad\)'\)"),
        (battle("model_a", anony=False), Skipped, "names"),
        (
            battle("model_a", conversation_a=chat("a", "b", "c", "d"), conversation_b=chat("a", "x", "c", "y")),
            Skipped,
            "differ before the last answer",
        ),
        (battle(None), ValueError, "winner is None"),
        (battle("A"), ValueError, "winner is 'A'"),
        (battle("model_a", conversation_b=chat("Read the sign.", "")), ValueError, "response_2 is ''"),
        (battle("model_a", conversation_b=None), ValueError, "conversation_b is None"),
        (battle("model_a", image={"bytes": None, "path": None}), ValueError, "image: .* holds no picture"),
    ],
)
def test_wildvision_battle_leaves_out(row, kind, message):
    with pytest.raises(ValueError, match=message) as error:
        read("wildvision-battle", row)
    assert type(error.value) is kind


# Plain


def test_llava_critic_cuts_the_responses_out_of_its_three_prompts():
    found = [texts(*read("llava-critic", row)) for row in LLAVA_CRITIC]
    assert found == [
        ("What [sic] is it?", "A cup.", "A cat.", 1),
        ("What is it?", "A cat.", "A cup.", 2),
        ("What is it?", "A cup.", "A cat.", 1),
    ]


@pytest.mark.parametrize(
    ("judgement", "kind", "message"),
    [
        ("Two responses are equally good.", Skipped, "a tie"),
        ("The better response: [both].", ValueError, "names no better response"),
        ("I cannot tell.", ValueError, "names no better response"),
    ],
)
def test_llava_critic_without_a_verdict(judgement, kind, message):
    with pytest.raises(kind, match=message):
        read("llava-critic", critic(bracketed("What?", "A cup.", "A cat."), judgement, "v_2"))
    with pytest.raises(Skipped, match="no two responses"):
        read("llava-critic", critic("Rate it.\nResponse: [A cup.]", "Score: 4", "p_1"))


def test_llava_critic_takes_time_linear_in_the_prompt():
    started = time.process_time()
    for piece in ("Question: [", "]\n\n", "[Assistant 1]", "<|User Prompt|>", "The first response: ["):
        with pytest.raises(Skipped):
            read("llava-critic", critic(piece * 200_000, "", "v_3"))
    assert time.process_time() - started < 10


def test_rlhf_v():
    (preference,) = read("rlhf-v", RLHF_V[0])
    assert texts(preference) == ("What is it?", "A cup.", "A cup and a spoon.", 1)
    with pytest.raises(ValueError, match="text is 'A cup'; the JSON of question, chosen and rejected"):
        read("rlhf-v", {**RLHF_V[0], "text": "A cup"})


def test_hh_rlhf_keeps_the_dialogue_before_the_answer():
    (preference,) = read("hh-rlhf", HH_RLHF[0])
    assert texts(preference) == ("User: Hi.\n\nAssistant: Hello.\n\nUser: What is tea?", "A drink.", "A bird.", 1)
    with pytest.raises(Skipped, match="differ before the last answer"):
        read("hh-rlhf", {**HH_RLHF[0], "rejected": HH_RLHF[0]["rejected"].replace("Hello", "Yes")})
    with pytest.raises(ValueError, match="Human and Assistant by turns"):
        read("hh-rlhf", {**HH_RLHF[0], "rejected": "\n\nHuman: Hi."})


def test_a_prompt_that_both_conversations_repeat_is_read_once():
    row = {"prompt": "Name it.", "chosen": chat("Name it.", "A kite."), "rejected": chat("Name it.", "A bird.")}
    assert texts(*read("trl", row)) == ("Name it.", "A kite.", "A bird.", 1)


def test_sharegpt_with_roles():
    row = {"messages": chat("Name it."), "chosen": chat("", "A kite.")[1], "rejected": chat("", "A bird.")[1]}
    assert texts(*read("sharegpt", row)) == ("Name it.", "A kite.", "A bird.", 1)


def test_ms_swift_with_a_query():
    row = {"query": "<image>Why?", "response": "A kite.", "rejected_response": "A bird.", "images": ["a.png"]}
    assert texts(*read("ms-swift", row)) == ("Why?", "A kite.", "A bird.", 1)
    longer = {**row, "history": [["Name it.", "It flies."]], "system": "Be brief."}
    turns = [{"role": "system", "content": "Be brief."}, *chat("Name it.", "It flies.", "<image>Why?", "A kite.")]
    assert read("ms-swift", longer) == read("ms-swift", {**row, "messages": turns})
    with pytest.raises(ValueError, match=r"history is \['Name it\.'\]; pairs of question and answer"):
        read("ms-swift", {**row, "history": ["Name it."]})


def test_a_column_that_holds_no_media_is_named():
    for name, row in (("plain", PLAIN[0]), ("mm-rlhf", MM_RLHF_PAIRS[0]), ("sharegpt", {**SHAREGPT[0], "images": []})):
        with pytest.raises(ValueError, match=r"^image: 7 holds no picture"):
            read(name, {**row, "image": 7})


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("vl-feedback", {**VL_FEEDBACK[0], "prompt": "<image>\nWhat is it?"}),
        ("rlaif-v", {**RLAIF_V[0], "question": "<image>\nWhat is it?"}),
        (
            "wildvision-battle",
            battle("model_a", **{f"conversation_{x}": chat("<image>\nWhat is it?", f"A {x}.") for x in "ab"}),
        ),
    ],
)
def test_no_question_has_media_markers(name, row):
    assert {preference.question for preference in read(name, row)} == {"What is it?"}


def test_conversational_forms_say_the_same():
    kite = ("Name it.", "A kite.", "A bird.", 1)
    assert [texts(*read("trl", row)) for row in TRL] == [kite, kite]
    assert texts(*read("sharegpt", SHAREGPT[0])) == kite
    assert texts(*read("ms-swift", MS_SWIFT[0])) == ("System: Be brief.\n\nUser: Name it.", *kite[1:])
    picture = (Media(path="short/kite.png"),)
    assert [read(name, row)[0].images for name, row in (("trl", TRL[1]), ("sharegpt", SHAREGPT[0]))] == [picture] * 2
    assert read("trl", TRL[0])[0].category == "arena"
    same = {**MS_SWIFT[0], "rejected_response": None}
    same["rejected_messages"] = [*same["messages"][:-1], {"role": "assistant", "content": "A bird."}]
    assert read("ms-swift", same) == read("ms-swift", MS_SWIFT[0])
    inline = {**TRL[1], "images": None}
    inline["prompt"] = [
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, *TRL[1]["prompt"][0]["content"][1:]]}
    ]
    assert read("trl", inline)[0].images == (Media(path="a.png"),)
    assert texts(*read("trl", {"prompt": "Name it.", "chosen": "A kite.", "rejected": "A bird."})) == kite


@pytest.mark.parametrize(
    ("name", "row", "changes", "message"),
    [
        ("trl", TRL[1], {"prompt": None}, "not of user and assistant by turns"),
        ("trl", TRL[1], {"chosen": [{"role": "assistant", "content": [{"type": "audio"}]}]}, "only text and image"),
        ("trl", TRL[1], {"chosen": [{"role": "assistant", "content": [{"type": "text", "text": None}]}]}, "holds None"),
        ("sharegpt", SHAREGPT[0], {"chosen": {"from": "function_call", "value": "x"}}, "are needed"),
        ("sharegpt", SHAREGPT[0], {"videos": ["a.mp4", "b.mp4"]}, "one video is the most"),
        ("ms-swift", MS_SWIFT[0], {"rejected_images": ["b.png"]}, "and images others"),
        ("ms-swift", MS_SWIFT[0], {"rejected_response": 7}, "a text that is not empty is needed"),
    ],
)
def test_conversational_forms_refuse(name, row, changes, message):
    with pytest.raises(ValueError, match=message):
        read(name, {**row, **changes})


def test_other_headings_of_the_prompt():
    row = json.loads(json.dumps(R1_REWARD_RL[0]).replace("[Response ", "[Answer ").replace("[Question]", "Q"))
    with pytest.raises(ValueError, match=r"not once each .*other headings: --headings"):
        read("r1-reward-rl", row)
    headings = ["Q", "[Answer 1]", "[Answer 2]", "Output Format (strictly follow)"]
    (preference,) = read("r1-reward-rl", row, headings=headings)
    assert texts(preference) == texts(*read("r1-reward-rl", R1_REWARD_RL[0]))
    with pytest.raises(ValueError, match="four different ones are needed"):
        load_source("r1-reward-rl", headings=["Q", "A", "A", "End"])


@pytest.mark.parametrize(("value", "label"), [("A", 1), ("B ", 2), (0, 2), ("0", 2)])
def test_labels_mean_what_the_option_says(value, label):
    row = {"question": "What?", "response_1": "A kite.", "response_2": "A bird.", "label": value}
    labels = {"A": "1", "B": "2", "0": 2, "tie": "skip"}
    assert texts(*read("plain", row, labels=labels))[3] == label
    with pytest.raises(Skipped, match="label is 'tie'"):
        read("plain", {**row, "label": "tie"}, labels=labels)
    with pytest.raises(ValueError, match="label is 1, not one of A, B, 0, tie"):
        read("plain", {**row, "label": 1}, labels=labels)
    with pytest.raises(ValueError, match="'A=3' is mapped to none of 1, 2, skip"):
        load_source("plain", labels={"A": 3})


def test_plain_with_a_mapping():
    row = {"Frage": "Was?", "A": "Ein Rad.", "B": "Ein Rat.", "besser": "2", "Bild": "a.png", "nr": 7, "level": "3"}
    columns = {"question": "Frage", "response_1": "A", "response_2": "B", "label": "besser", "image": "Bild"}
    columns |= {"id": "nr", "difficulty": "level"}
    assert read("plain", row, columns=columns, name="mine") == [
        Preference("7", "mine", "unknown", "Was?", "Ein Rad.", "Ein Rat.", 2, (Media("a.png"),), difficulty=3)
    ]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("a.png", ["a.png"]),
        (["a.png", {"path": "b.png", "bytes": None}], ["a.png", "b.png"]),
        ('["a.png", "b.png"]', ["a.png", "b.png"]),
        ("file:///data/a.png", ["/data/a.png"]),
        ("", []),
        (None, []),
        ([], []),
    ],
)
def test_plain_pictures(images, expected):
    row = {"question": "<image> and <image>\nWhich?", "chosen": "a", "rejected": "b", "images": images}
    (preference,) = read("plain", row)
    assert [item.path for item in preference.images] == expected
    assert preference.question == "and Which?"


def test_plain_video_is_a_folder_or_frames():
    row = {"question": "What?", "chosen": "a", "rejected": "b"}
    assert read("plain", {**row, "video": "clips/7"})[0].video == (Media("clips/7"),)
    assert read("plain", {**row, "video": ["1.jpg", "2.jpg"]})[0].video == (Media("1.jpg"), Media("2.jpg"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"label": label}, "neither 1 nor 2 .*--label says what other labels mean")
            for label in ("2 ", 2.0, "B", None, "")
        ),
        ({"label": 1, "response_1": None}, "response_1 is None"),
        ({"question": None}, "question is None"),
        ({"id": 1.5}, r"id is 1\.5"),
        ({"difficulty": "hard"}, "difficulty is 'hard'"),
        ({"image": "https://example.org/a.png"}, "nothing is fetched"),
        ({"image": "[1"}, "begins like a JSON list"),
        ({"image": 7}, "7 holds no picture"),
    ],
)
def test_plain_refuses(changes, message):
    row = {"question": "q", "response_1": "a", "response_2": "b", "label": 1, **changes}
    with pytest.raises(ValueError, match=message):
        read("plain", row)


def test_a_long_label_does_not_fill_the_message():
    with pytest.raises(ValueError, match="label 'xxx") as raised:
        read("plain", {**PLAIN[0], "label": "x" * 70_000, "response_1": "a", "response_2": "b"})
    assert len(str(raised.value)) < 300


def test_plain_names_a_mapped_column_that_is_not_there():
    with pytest.raises(ValueError, match=r"no column 'Frage' \(there are: question, chosen"):
        read("plain", PLAIN[0], columns={"question": "Frage"})
    with pytest.raises(ValueError, match="field 'prompt' is unknown; known: id, source"):
        load_source("plain", columns={"prompt": "question"})


# Media


def test_what_means_a_picture():
    encoded = base64.b64encode(png()).decode()
    wrapped = "\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))
    same = [png(), {"bytes": png(), "path": "name.png"}, encoded, wrapped, f"data:image/png;base64,{encoded}"]
    assert {read_media(value) for value in same} == {Media(data=png())}
    long_path = "/" + "a" * 63 + "/x" * 60 + ".jpg"
    for path in (
        long_path,
        "video/clipA",
        "long/" + "folder" * 20,
        {"image": "a.png"},
        {"bytes": None, "path": "a.png"},
    ):
        assert read_media(path) == Media(path if isinstance(path, str) else "a.png")
    assert read_media_list(None) == read_media_list("") == read_media_list([]) == ()


@pytest.mark.parametrize("value", [None, 7, "", {}, {"bytes": None, "path": None}, [], "data:image/png,plain", "data:"])
def test_what_means_none(value):
    with pytest.raises(ValueError, match=r"holds no picture|does not hold base64"):
        read_media(value)


# The registry


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mm_rlhf", {}, r"source 'mm_rlhf' is unknown; known: r1-reward-rl, mm-rlhf"),
        ("povid", {"margin": 1}, r"source 'povid': .*margin"),
        ("vl-feedback", {"margin": 5}, "margin is 5"),
        ("vl-feedback", {"margin": "1"}, "margin is '1'"),
    ],
)
def test_unknown_sources_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_source(name, **options)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution with entry points, as pip would leave it, and a module beside it."""

    def install(points, code="", dist="their_dist"):
        info = tmp_path / f"{dist}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        (tmp_path / "their_source.py").write_text(code)

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    sys.modules.pop("their_source", None)


OWN = """
from r1reward_verl.data.preference import Preference

class Own:
    name = "own"

    def __init__(self, category="toy"):
        self.category = category

    def read(self, row, number):
        yield Preference(row["key"], self.name, self.category, row["ask"], row["good"], row["bad"], 1)

number = 7
def nothing():
    return None
"""


def test_ones_own_source_comes_in_by_an_entry_point(installed):
    installed({"own": "their_source:Own"}, OWN)
    assert source_names() == [*SOURCES, "own"]
    assert "their_source" not in sys.modules, "names are listed without importing anything"
    row = {"key": "1", "ask": "q", "good": "a", "bad": "b"}
    assert read("own", row, category="x") == [Preference("1", "own", "x", "q", "a", "b", 1)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("absent_module:Own", "cannot be loaded: ModuleNotFoundError: .*absent_module"),
        ("their_source:Absent", "cannot be loaded: AttributeError"),
        ("their_source:number", "is 7; a class or function"),
        ("their_source:nothing", "made None, which lacks a name"),
    ],
)
def test_a_broken_entry_point_is_named(installed, target, message):
    installed({"own": target}, OWN)
    with pytest.raises(ValueError, match=rf"source 'own' \(entry point '{target}' of their_dist\).*{message}"):
        load_source("own")
    assert load_source("plain"), "the others still work"


def test_a_module_that_fails_at_import_is_named(installed):
    installed({"own": "their_source:Own"}, "raise RuntimeError('no licence')")
    with pytest.raises(ValueError, match="cannot be loaded: RuntimeError: no licence"):
        load_source("own")


def test_names_are_unique(installed):
    installed({"plain": "their_source:Own"}, OWN)
    with pytest.raises(ValueError, match=r"several sources are called 'plain': .*their_dist and one of r1reward_verl"):
        load_source("plain")


def test_preferences_of_sources_are_whole():
    for case, row in ROWS.items():
        for item in read(case.split()[0], row):
            assert replace(item) == item
            assert item.difficulty is None
            assert item.trace is None
