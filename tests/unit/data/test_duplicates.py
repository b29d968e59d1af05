"""Which preferences count as the same, and which as nearly the same."""

import random
import subprocess
import sys
import tracemalloc
from itertools import pairwise

import pytest
from msgspec.structs import replace

from factories import processor_seconds
from r1reward_verl.data.duplicates import NearDuplicates, content, digest, normalised
from r1reward_verl.data.preference import Preference
from r1reward_verl.media import Media

ALPHABETS = {
    "English": [
        "".join(random.Random(n).choices("etaoinshrdlu", k=random.Random(n).randint(2, 9))) + " " for n in range(2000)
    ],
    "Chinese": [chr(0x4E00 + n) for n in range(0, 6000, 3)],
    "Japanese": [chr(0x3041 + n) for n in range(80)] + [chr(0x5000 + n) for n in range(500)],
}


def written(rng, script, words):
    return "".join(rng.choices(ALPHABETS[script], k=words)).strip()


def edited(rng, script, text, share):
    """Replace this share of a text, words or characters, by others."""
    units = [f"{word} " for word in text.split()] if script == "English" else list(text)
    for index in rng.sample(range(len(units)), round(share * len(units))):
        units[index] = rng.choice(ALPHABETS[script])
    return "".join(units).strip()


def preference(question="What is it?", response_1="A kite.", response_2="A bird.", label=1, index=0, **changes):
    return Preference(str(index), "s", "c", question, response_1, response_2, label, **changes)


def jaccard(one, other):
    """The similarity itself, of sets of five characters."""

    def shingles(item):
        texts = (("q", item.question), ("r", item.response_1), ("r", item.response_2))
        return {
            (kind, normalised(text)[start : start + 5])
            for kind, text in texts
            for start in range(max(1, len(normalised(text)) - 4))
        }

    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def near(threshold, *preferences):
    """What `find` says of the last of them."""
    finder = NearDuplicates(threshold)
    return [finder.find(item) for item in preferences][-1]


# Exactly the same


def test_a_digest_knows_where_a_text_ends():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("a", "") != digest("a")
    assert len(digest()) == 16


def test_what_is_the_same_content():
    picture, copy = Media("a.png", sha256="0" * 64), Media("b.png", sha256="0" * 64)
    one = preference(images=(picture,))
    assert content(one) == content(replace(one, id="other", source="other", images=(copy,)))
    assert content(one) == content(replace(one, response_1="A bird.", response_2="A kite."))
    others = [
        replace(one, question="What is it"),
        replace(one, response_2="A bird!"),
        replace(one, images=(Media("a.png"),)),
        replace(one, images=(picture, picture)),
        replace(one, images=()),
        replace(one, images=(), video=(picture,)),
    ]
    assert len({content(item) for item in [one, *others]}) == 7


# Nearly the same


@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("script", ALPHABETS)
def test_the_decision_follows_the_similarity(script, threshold):
    rng = random.Random(f"{script} {threshold}")
    outcomes = []
    for _ in range(80):
        one = preference(*(written(rng, script, rng.randint(20, 100)) for _ in range(3)))
        share = 0.5 * rng.random() ** 3
        other = preference(
            *(edited(rng, script, text, share) for text in (one.question, one.response_1, one.response_2))
        )
        similarity = jaccard(one, other)
        deviation = (similarity * (1 - similarity) / 128) ** 0.5
        if abs(similarity - threshold) > 3.5 * deviation:
            outcomes.append(similarity > threshold)
            assert (near(threshold, one, other) is not None) == outcomes[-1], similarity
    assert min(outcomes.count(True), outcomes.count(False)) >= 10, "both happen"


def test_a_pair_that_reaches_the_threshold_is_always_looked_at():
    rng = random.Random(0)
    for _ in range(200):
        one = preference(*(written(rng, "English", 60) for _ in range(3)))
        other = preference(*(edited(rng, "English", text, 0.02) for text in (one.question, one.response_1, "A bird.")))
        finder = NearDuplicates(0.9)
        signatures = [finder._signature(item)[0][0] for item in (one, other)]
        reached = (signatures[0] == signatures[1]).mean() >= 0.9
        assert (near(0.9, one, other) is not None) == reached


def test_case_white_space_and_forms_of_characters_do_not_count():
    one = preference("Describe THE image.", "A ﬁne kite, 100 m high", "Ein Vogel auf der Straße")
    other = preference("<image>\ndescribe  the image.", "a fine kite,\n１００ m high", "EIN VOGEL AUF DER STRASSE")
    assert near(1, one, other) is False
    assert near(1, one, preference("Describe the image", one.response_1, one.response_2)) is None


def test_the_question_is_told_apart_from_the_responses():
    texts = written(random.Random(1), "English", 30), written(random.Random(2), "English", 30)
    assert near(0.5, preference(*texts, "No."), preference(*texts[::-1], "No.")) is None


def test_a_few_characters_are_a_text_too():
    assert near(0.9, preference("?", "a", "b"), preference("?", "b", "a")) is True
    assert near(0.5, preference("?", "a", "b"), preference("!", "c", "d")) is None
    assert near(0.9, preference("<image>", "a", "b"), preference("<image> ", "A", "B")) is False


LONG = written(random.Random(3), "English", 80)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"images": (Media("copy.png", sha256="0" * 64),)}, True),
        ({"images": (Media("a.png", sha256="1" * 64),)}, False),
        ({"images": (Media("a.png"),)}, False),
        ({"images": ()}, False),
        ({"images": (), "video": (Media("a.png", sha256="0" * 64),)}, False),
        ({"images": (Media("a.png", sha256="0" * 64),) * 2}, False),
    ],
)
def test_only_with_the_same_media(changes, same):
    one = preference(response_1=LONG, images=(Media("a.png", sha256="0" * 64),))
    assert near(0.8, one, replace(one, response_1=f"{LONG}.", **changes)) == (False if same else None)


def test_without_media_the_texts_decide():
    assert near(0.8, preference(response_1=LONG), preference(response_1=f"{LONG}.")) is False
    assert near(0.8, preference(response_1=LONG), preference(response_1=LONG[::-1])) is None


def test_the_opposite_label_is_told_whatever_the_order_of_the_responses():
    rng = random.Random(4)
    for _ in range(50):
        good, bad = written(rng, "English", 60), written(rng, "English", 60)
        one = preference(response_1=good, response_2=bad)
        # The first words decide how texts are sorted; the responses keep their roles all the same.
        good, bad = f"{rng.choice('az')} {good}", f"{rng.choice('az')} {bad}"
        assert near(0.8, one, preference(response_1=good, response_2=bad, label=1)) is False
        assert near(0.8, one, preference(response_1=bad, response_2=good, label=2)) is False
        assert near(0.8, one, preference(response_1=good, response_2=bad, label=2)) is True
        assert near(0.8, one, preference(response_1=bad, response_2=good, label=1)) is True


def test_the_first_one_stays_and_what_was_dropped_drops_nothing():
    words = [f"{word} " for word in written(random.Random(5), "English", 100).split()]

    def version(count):
        return preference(response_1="".join([*words[count:], *ALPHABETS["English"][:count]]), index=count)

    chain = [version(count) for count in range(0, 50, 4)]
    steps = [jaccard(one, other) for one, other in pairwise(chain)]
    assert min(steps) > 0.85 > 0.75 > jaccard(chain[0], chain[4])
    finder = NearDuplicates(0.8)
    kept = [item for item in chain if finder.find(item) is None]
    assert kept[0] == chain[0]
    assert kept[1] in chain[2:5], "compared with the first, not with the one before it"
    assert [finder.find(item) for item in kept] == [False] * len(kept)


OUTCOME = """
import sys
sys.path[:0] = sys.argv[1:]
from test_duplicates import crowd
from r1reward_verl.data.duplicates import NearDuplicates
finder = NearDuplicates(0.8)
print([finder.find(item) for item in crowd(200)])
"""


def crowd(count):
    """Preferences without media that have most of their text in common; every tenth is nearly another one's copy."""
    common = written(random.Random(6), "English", 60)
    found = []
    for index in range(count):
        rng = random.Random(index - index % 10 if index % 10 == 9 else index)
        texts = [f"{common} {written(rng, 'English', 15)}", written(rng, "English", 15)]
        found.append(preference(common, texts[0], texts[1] + "." * (index % 10 == 9), index=index))
    return found


def test_every_process_decides_alike(tmp_path):
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", OUTCOME, *sys.path],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outcomes) == 1
    assert "False" in outcomes.pop()


def test_in_a_crowd_copies_are_found_and_each_row_costs_the_same():
    items = crowd(3000)
    finder = NearDuplicates(0.9)
    outcomes, times = [], []
    for start in range(0, 3000, 500):
        batch = items[start : start + 500]
        times.append(processor_seconds(outcomes.extend, map(finder.find, batch), tries=1))
    copies = [outcome is not None for index, outcome in enumerate(outcomes) if index % 10 == 9]
    others = [outcome is not None for index, outcome in enumerate(outcomes) if index % 10 != 9]
    assert sum(copies) / len(copies) > 0.95
    assert sum(others) / len(others) < 0.01
    assert times[-1] < 3 * min(times), times


def test_memory_is_that_of_the_signatures():
    finder = NearDuplicates(0.9)
    finder.find(preference())
    tracemalloc.start()
    try:
        assert finder.find(preference(response_1="".join(map(chr, range(0x4E00, 0x9000))) * 30)) is None
        held, peak = tracemalloc.get_traced_memory()
        assert peak < 50 << 20, "of a text of half a million characters"
        for index in range(800):
            finder.find(preference(str(index), str(index * index)))
        assert (tracemalloc.get_traced_memory()[0] - held) / 800 < 2000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threshold", [0.4, 1.01, 90, float("nan")])
def test_thresholds_that_make_no_sense(threshold):
    with pytest.raises(ValueError, match=f"is {threshold}, not between 0.5 and 1"):
        NearDuplicates(threshold)
