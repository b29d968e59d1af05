"""What counts as a judgement that corrects itself, and what does not."""

import pytest

from factories import processor_seconds
from r1reward_verl.evaluation.reflection import find_reflections

CORRECTS_ITSELF = [
    # wait
    ("Response 1 says three dogs. Wait, there are four in the picture.", "wait", "Wait,"),
    ("<think>Wait, let me look at the sign.", "wait", "Wait,"),
    ("It is a bus... wait, no, it is a tram.", "wait", "wait,"),
    ("So response 1 is better.\n\nBut wait — the question asks for the colour.", "wait", "But wait —"),
    ("The sum is 12. Hmm, wait. . . no", "", None),  # a single dot may be an order to wait
    ("The sum is 12. Wait... 7 + 6 is 13.", "wait", "Wait.."),
    ("The sum is 12. Oh wait, it is 13.", "wait", "Oh wait,"),
    ("The sum is 12. Wait a minute, 7 + 6 is 13.", "wait", "Wait a minute"),
    ("The sum is 12.\n- Wait - 7 + 6 is 13.", "wait", "Wait - "),
    ("The sum is 12. Hold on, 7 + 6 is 13.", "wait", "Hold on,"),
    ("**Wait**: the label says 5.", "", None),  # markup inside: missed, rather than guessed
    # look again
    ("Let me re-check the picture.", "look again", "Let me re-check"),
    ("Hmm. Let me recheck.", "look again", "Let me recheck"),
    ("I should reconsider response 2.", "look again", "I should reconsider"),
    ("Let's re-examine the second claim.", "look again", "Let's re-examine"),
    ("Let’s re-evaluate both.", "look again", "Let’s re-evaluate"),
    ("I need to double-check the number of windows.", "look again", "I need to double-check"),
    ("Let me look at the picture again.", "look again", "Let me look at the picture again"),
    ("Let me take another look.", "look again", "Let me take another look"),
    ("I have to correct myself: it is red.", "look again", "I have to correct myself"),
    # second thought
    ("On second thought, response 2 fits better.", "second thought", "On second thought"),
    ("However, upon closer inspection, the cup is blue.", "second thought", "However, upon closer inspection"),
    ("But on a second look the cup is blue.", "second thought", "But on a second look"),
    ("However, on further reflection, both mention it.", "second thought", "However, on further reflection"),
    # admission
    ("I misread the table: the value is 40.", "admission", "I misread"),
    ("I initially misjudged the distance.", "admission", "I initially misjudged"),
    ("I was wrong about the colour.", "admission", "I was wrong"),
    ("I made a mistake in the second step.", "admission", "I made a mistake"),
    ("My earlier assessment of response 1 was wrong.", "admission", "My earlier assessment of response 1 was wrong"),
    ("My earlier assessment was incorrect.", "admission", "My earlier assessment was incorrect"),
    ("My initial reading is not quite right.", "admission", "My initial reading is not quite right"),
    ("I must have overlooked the second window.", "admission", "I must have overlooked"),
    ("Scratch that, it is a tram.", "admission", "Scratch that"),
    ("I stand corrected.", "admission", "I stand corrected"),
    # actually
    (
        "Response 1 is better. Actually, response 2 is better since it names the tram.",
        "actually",
        "Actually, response 2 is better since it names the tram",
    ),
]

DOES_NOT = [
    "",
    "Response 1 says three dogs, which is wrong. So response 2 is better.",
    "The people wait for the bus.",
    "Wait times are listed on the board.",
    "They stop, wait, and cross the street.",
    "Wait for the green light, says response 1.",
    "Wait, then cross the street.",
    "The sign says: Wait.",
    'Response 2 says "Wait, the bus is coming." It fits the picture.',
    "Response 2 says “No. Wait, I misread that.” It is honest.",
    "The waiter waits. Waiting, he looks at his watch.",
    "The man holds on to the rail. Hold on to it, says response 1.",
    "Let me compare the two responses.",
    "Let me check the picture first.",
    "Response 1 asks the user to double-check the label.",
    "Response 2 reconsiders its claim.",
    "The user should re-check the bill.",
    "Upon closer inspection, the cup is blue.",  # a way to describe, without a turn
    "On closer inspection of the picture, response 1 is right.",
    "Without a second thought, response 1 is better.",
    "Response 1 was wrong about the colour.",
    "Response 2 misread the table and made a mistake.",
    "The earlier assessment in response 1 was incorrect.",
    "However, response 2 misses the cup.",
    "Response 1 says there is a dog. Actually, the picture shows a cat.",  # a response is corrected
    "Response 1 is better. Actually, response 1 is better in every respect.",
    "Response 2 is actually better.",
    "Once again, response 1 is better.",
    "I will choose response 1.",
    "I think response 1 is correct again.",
]


@pytest.mark.parametrize(("text", "rule", "span"), CORRECTS_ITSELF)
def test_examples_that_correct_themselves(text, rule, span):
    found = find_reflections(text)
    if span is None:
        assert not found
    else:
        assert [(text[start:end], name) for start, end, name in found] == [(span, rule)]


@pytest.mark.parametrize("text", DOES_NOT)
def test_examples_that_do_not(text):
    assert not find_reflections(text)


def test_case_does_not_matter():
    assert find_reflections("WAIT, IT IS RED.")
    assert find_reflections("let me RE-CHECK.")


def test_several_in_one_judgement_are_all_returned_in_order():
    text = "Response 1 it is. Wait, it is red. Let me re-check. I was wrong."
    assert [text[start:end] for start, end, _ in find_reflections(text)] == ["Wait,", "Let me re-check", "I was wrong"]


@pytest.mark.parametrize(
    "piece",
    [
        *("Wait, ", "wait", '"', "“", "“ ”", "\n", " ", "-", "* ", "No, but, ", "hm", "hm, ", "actually ", "Actually."),
        *("let me look ", "Let me check the ", "i have ", "actually, response 1 is better. ", "on a ", "but on a "),
        *("my earlier ", "my earlier analysis was ", "my first claim "),
        "Response 2 is better. Actually, response 1 is better. ",
    ],
)
def test_time_is_linear_in_the_length(piece):
    def seconds(length):
        text = (piece * (length // len(piece) + 1))[:length]
        return processor_seconds(find_reflections, text)

    assert seconds(40_000) < 20 * seconds(5_000) + 0.01  # quadratic would be 64 times
