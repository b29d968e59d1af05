"""What counts as a conclusion, and what does not change it."""

from string import ascii_lowercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import processor_seconds
from r1reward_verl.rewards import conclusion
from r1reward_verl.rewards.conclusions import closing_lines

TOY = "The answer is green. Response 1 says green: yes. Response 2 says white: no. So response {} is better."


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        # plain statements
        (TOY.format(1), 1),
        (TOY.format(2), 2),
        ("response 1 is better", 1),
        ("RESPONSE 2 IS BETTER!", 2),
        ("**Response 2** is better.", 2),
        ("Response #2 is better.", 2),
        ("Response one is better.", 1),
        ("The second response is preferable.", 2),
        ("The second is better.", 2),
        ("Response 2 wins.", 2),
        ("Response 1 beats response 2 and is better.", 1),
        ("Response 2's description is better.", 2),
        # the name comes after
        ("The better one is response 2.", 2),
        ("The winner is the first response", 1),
        ("I prefer response 1.", 1),
        ("I would choose response 2.", 2),
        ("I'd go with response 1.", 1),
        ("My choice is response 2.", 2),
        ("Response 1 is the one I prefer.", 1),
        # comparisons, whichever is named first
        ("Response 1 is worse than response 2.", 2),
        ("Response 1 is inferior to Response 2", 2),
        ("Response 2 is superior to response 1.", 2),
        ("Response 2 is superior to response 1 and stronger.", 2),
        ("I prefer it to response 2.", 1),
        ("I prefer response 1 over response 2.", 1),
        ("I prefer response 2 to response 1.", 2),
        ("Rather than response 1, I prefer response 2.", 2),
        ("Compared to response 1, response 2 is better.", 2),
        ("Response 2, compared to response 1, is better.", 2),
        ("It is better than response 2.", 1),
        ("Response 1 is not as good as response 2.", 2),
        ("Response 2 is better than response 1, which is worse.", 2),
        ("Therefore, response 1 is the better response, while response 2 is worse.", 1),
        ("Response 1 loses.", 2),
        ("First, response 2 is better.", 2),
        # reasons and negations about the other one
        ("Response 1 is better because response 2 is better at nothing.", 1),
        ("Response 1 is not accurate, response 2 is better.", 2),
        ("Response 1 is not accurate and response 2 is better.", 2),
        ("Response 1 is not only accurate but also better.", 1),
        # a marked conclusion decides
        ("Response 1 is better in style. Overall, response 2 is better.", 2),
        ("Response 1 is better in style, but response 2 is better overall.", 2),
        ("Both are correct, but response 2 is better.", 2),
        ("In conclusion,\nresponse 2 is the stronger answer", 2),
        # one quality, where nothing is said of the whole
        ("Overall, response 2 gives a more accurate and detailed answer.", 2),
        ("Response 1 is less relevant than response 2.", 2),
        ("Response 1 is more detailed, but response 2 is better.", 2),
        ("Response 1 is more detailed, but response 2 is more accurate.", "both"),
        # approval of both
        ("Both responses are good.", "both"),
        ("Response 1 and response 2 are equally good.", "both"),
        ("Response 1 and 2 are both better.", "both"),
        ("The first and second responses are equal.", "both"),
        ("Response 1 is as good as response 2.", "both"),
        ("It's a tie.", "both"),
        ("Response 1 is better. Response 2 is better.", "both"),
        ("Response 1 is better. But really, both are equally good.", "both"),
        # other names
        ("Assistant A's answer is slightly better than Assistant B's.", 1),
        ("A is correct; B is not.", 1),
        ("I prefer B's explanation.", 2),
        ("Assistant B takes option A for the right one and is better.", 2),
        ("Response II is better than Response I.", 2),
        ("Response 1 gets the flag wrong, so the other one is better.", 2),
        ("The former is more convincing than the latter.", 1),
        ("In her former life she would choose between two worlds.", None),
        # bare conclusions
        ("The better response is:\n\n2", 2),
        ("## Final answer\n1", 1),
        ("So it's Response 1.", 1),
        ("Verdict: Response 2, mostly for its accuracy.", 2),
        ("Substance counts more, so Response 2.", 2),
        ("Response 1 says green.\n1", None),
        ("Close, but Response 1.", 1),
        ("Considering everything, Response 1.", 1),
        ("That is why I chose Response 1.", 1),
        ("If pressed, I'd go for Response 2.", 2),
        ("Response 2 is the only correct one.", 2),
        ("Response 2, but only just.", 2),
        # more is said for one
        ("Response 1 is more concise. Response 2 is more detailed and more accurate.", 2),
        ("Response 2 provides a higher level of detail.", 2),
        ("Both are helpful, but response 1 provides more context.", 1),
        ("Response 1 is more detailed. However, both are accurate.", 1),
        ("Both are good answers, though response 1 is a bit better.", 1),
        ("I rank Response 1 below Response 2.", 2),
        ("Response 1 scores lower.", 2),
        ("Response 1 should not be chosen.", 2),
        ("This gives Response 1 a clear edge.", 1),
        # scores
        ("Response 2 is more detailed. So I would rate Response 1 as 9/10 and Response 2 as 8/10.", 1),
        ("I would give Response 1 a 6 and Response 2 an 8.", 2),
        ("Response 1 gets four stars, Response 2 gets two stars.", 1),
        ("| | Response 1 | Response 2 |\n| Style | 9 | 1 |\n| Total | 12 | 14 |", 2),
        ("Response 1: 7/10, Response 2: 7/10", None),
        # one is faulted, of the other something is told
        ("Response 1 misses the sign, which Response 2 mentions.", 2),
        ("Response 1 meets the requirement, Response 2 doesn't.", 1),
        ("Response 1 is off topic. Response 2 isn't.", 2),
        ("Response 1 is far from accurate. Response 2 is correct.", 2),
        ("Response 1: Helpful, accurate.\nResponse 2: Not helpful, irrelevant.", 1),
        ("Response 2 misses the second bird.", None),
        # what turns, denies and doubts reaches no further than its clause
        ("Response 2 is better... no, wait, it ignores the limit. Response 1 is better.", 1),
        ("Response 2, which does not invent anything, is better.", 2),
        ("If a list were wanted, Response 1 would be better, but since a text is, Response 2 wins.", 2),
        ("It's Response 2, not Response 1, that is better.", 2),
        ("Nobody would prefer Response 2; I prefer Response 1.", 1),
        ("I would not say that Response 1 is better, and I would not say that Response 2 is better.", None),
        ("I doubt that Response 1 is better.", None),
        ("The user thinks that Response 1 is better.", None),
        ("The instruction says to prefer Response 1 when in doubt.", None),
        ("I need more information to say that Response 1 is better.", None),
        ("Response 1 is better on accuracy and Response 2 on clarity, so they balance out.", "both"),
        # no conclusion
        ("", None),
        ("\n\n", None),
        ("Response 1 is good.", None),
        ("Response 1 is not better.", None),
        ("Response 1 isn\u2019t better than response 2.", None),
        ("Response 1 is no better.", None),
        ("I don't think response 1 is better.", None),
        ("Neither response 1 nor response 2 is better.", None),
        ("Is response 1 better?", None),
        ("Whether response 1 or response 2 is better is unclear.", None),
        ("Response 1 would be better if it named the dog.", None),
        ("Response 12 is better.", None),
        ("Response \u0661 is better.", None),
        ("Better safe than sorry.", None),
    ],
)
def test_conclusion(reasoning, expected):
    assert conclusion(reasoning) == expected


def test_only_the_last_three_lines_count():
    assert conclusion("Response 1 is better.\na\nb") == 1
    assert conclusion("Response 1 is better.\na\nb\nc") is None
    assert conclusion("Response 2 is better.\na\nb\nResponse 1 is better.\n\n") == 1


def test_blank_lines_count_as_closing_lines_only_between_others():
    assert closing_lines(" a\nb\n\nc\n\n") == "b\n\nc"
    assert closing_lines("a\nb", count=1) == "b"
    assert closing_lines("") == ""


SENTENCES = [
    "The better one is response 2.",
    "Response 1 is worse than response 2.",
    "Both are correct, but response 2 is better!",
    "I prefer response 1 over response 2.",
    "The first and second responses are equal.",
    "The second isn't as good as the first.",
    "Response 1 is better because response 2 names no dog; it's not only right.",
    "Overall, response 2 gives a more accurate and detailed answer.",
    "Is response 1 better?",
    "Response 2 could be better if it named the dog.",
]
SILENT = [
    # nothing is known of these words
    "The picture shows a dog near the kerb.",
    "Le chien est \u00e0 gauche \u2014 \u72d7.",
    "\ud800 \x00 | # ... 12,",
    # names, comparisons, negations, conditions and reasons, but nothing that could be concluded
    "Response 1 says green, response 2 says white.",
    "Unlike the first response, the second response doesn't name both, if at all.",
    "Whether it is a dog could not be seen because the image, which is dark, is given to response 2.",
]
reasonings = st.lists(st.sampled_from(SENTENCES), max_size=3)


@given(reasonings, st.lists(st.sampled_from(SILENT), max_size=4), st.data())
def test_sentences_that_conclude_nothing_change_nothing(sentences, silent, data):
    expected = conclusion(" ".join(sentences))
    for sentence in silent:
        sentences.insert(data.draw(st.integers(0, len(sentences))), sentence)
    assert conclusion(" ".join(sentences)) == expected


@given(reasonings)
def test_case_emphasis_and_the_shape_of_the_apostrophe_do_not_matter(sentences):
    text = " ".join(sentences)
    expected = conclusion(text)
    assert conclusion(text.upper()) == expected
    assert conclusion("**" + text.replace(" ", "** **") + "**") == expected
    assert conclusion(text.replace("'", "\u2019")) == expected


@given(reasonings, st.sampled_from([".", ";", "!", "\n"]))
def test_a_sentence_ends_with_any_mark_and_with_its_line(sentences, end):
    sentences = [sentence[:-1] for sentence in sentences if not sentence.endswith("?")]
    assert conclusion(end.join(sentences)) == conclusion(". ".join(sentences))


@given(st.text(ascii_lowercase, max_size=6), st.sampled_from(["n't", "n\u2019t"]))
def test_every_word_that_ends_in_nt_is_a_negation(start, end):
    assert conclusion(f"Response 1 {start}{end} better.") is None
    assert conclusion(f"Response 1 {start}{end}s better.") == 1


@given(st.text())
def test_any_text_can_be_read(text):
    assert conclusion(text) in (None, 1, 2, "both")
    assert conclusion(text + ".\nSo response 2 is better.") == 2


@pytest.mark.parametrize(
    "piece",
    [
        "response 1 is better than response 2 and ",
        "Both are good. Response 1 is better. ",
        "response 1 is better? ",
        "both ",
        "the other one, total / ",
        "so, ",
        "a",
        "'s",
        "\n",
        "not ",
        "n't",
        "n't ",
        "\x00",
    ],
)
def test_time_is_linear_on_hostile_input(piece):
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        return processor_seconds(conclusion, text)

    assert seconds(400_000) < 20 * seconds(100_000) + 0.1  # 4 times is linear; 16 times would be quadratic
    assert seconds(1_000_000) < 10
