"""From the rows of public preference data sets to preferences: one reader for each, and the door for one's own.

Where the field names were found stands at each source and in `docs/reference/data-sources.md`. No data file of the
data sets themselves was at hand when these were written: [code] means that the project's own code reads the field so,
[card] that its dataset card says so, [report] that others report so, [inferred] that nobody says so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from itertools import combinations
from typing import Any, ClassVar, Protocol

from r1reward_verl.data.preference import Preference
from r1reward_verl.judgement import parse_label
from r1reward_verl.media import Media, image_source
from r1reward_verl.text import excerpt

GROUP = "r1reward_verl.sources"
"""Entry point group of a user's own sources."""

UNKNOWN = "unknown"

Row = Mapping[str, Any]

_MARKER = re.compile(r"<(?:image|video)>")
_PICTURE_FILE = re.compile(r"[^\n]{1,4000}\.(?:jpe?g|png|gif|webp|bmp|tiff?)", re.IGNORECASE)
_PICTURE_START = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


class Skipped(ValueError):
    """A row, or the rest of one, in which nothing is wrong and which holds no preference: a tie, for example."""


class Source(Protocol):
    """How the rows of one data set become preferences."""

    @property
    def name(self) -> str:
        """Name of the data set: `Preference.source`."""

    def read(self, row: Row, number: int) -> Iterable[Preference]:
        """Yield the preferences in a row; media paths as they stand there, responses in the order of the source.

        An id must be the same whatever file and line the row stands in, so `number` is for messages only.

        Raises:
            Skipped: there is no preference in the row, or none in what is left of it; what was yielded before counts.
            ValueError: the row is bad, and nothing of it counts.
        """


class R1RewardRL:
    """The released training rows of R1-Reward (Hugging Face `yifanzhang114/R1-Reward-RL`), parquet or jsonl.

    Fields, of the card at revision c3243ab [card] and of github.com/yfzhang114/r1_reward at 3693413, README 2.2 and
    2.3, `openrlhf/trainer/ppo_utils/data_processor.py` [code]: `question`; `message`, the JSON text of one user message
    of a text part and an image part; `answer`, a list with `<answer>1</answer>` or `<answer>2</answer>`; `image`.

    The responses stand in the text of `message` only, and are cut out between its headings. Those are in three
    places of that repository (README 2.3 and 4, `inference/VL-Reward-Bench/r1_reward.py`,
    `inference/Multimodal-Reward/get_mm-rlhf_reward.py`), with four or six `#`; no full row was seen.

    Unconfirmed: `image` (165 kB a row by the card, so base64 of a picture [inferred]; a data URI and a path are read
    too, and without any the author's path in `message`, an absolute one, is kept). Video parts: refused, the
    reference's own loader cannot read them.
    """

    name = "r1-reward-rl"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's preference, in the order of responses that the row has."""
        message = _required(row, "message")
        try:
            (turn,) = json.loads(message) if isinstance(message, str) else message
            kinds = [str(part["type"]) for part in turn["content"]]
            texts = [part["text"] for part in turn["content"] if part["type"] == "text"]
            paths = [part["image"] for part in turn["content"] if part["type"] == "image"]
            (prompt,) = texts
            sections = _HEADINGS.split(prompt)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(
                f"message is {excerpt(message)}; one chat message of one text and its images is needed"
            ) from None
        if others := set(kinds) - {"text", "image"}:
            raise ValueError(f"message has a part of type {excerpt(others.pop())}; only text and image can be read")
        headings = sections[1::2]
        if headings[:3] != ["[Question]", "[Response 1]", "[Response 2]"] or len(headings) != 4:
            raise ValueError(
                f"the prompt in message has the headings {excerpt(headings)}, not once each [Question], [Response 1], "
                "[Response 2] and Output Format: the responses cannot be told apart"
            )
        answers = row.get("answer")
        labels = {parse_label(answer) for answer in (answers if isinstance(answers, list) else [answers])}
        if len(labels) != 1:
            raise ValueError(f"answer is {excerpt(answers)}; one label is needed")
        # One column cannot hold several pictures; the paths in the message can.
        images = (_picture(row, "image"),) if row.get("image") and len(paths) < 2 else medias(paths)
        if not images:
            raise ValueError(f"image is {excerpt(row.get('image'))}, and message names no picture")
        folders = str(paths[0]).split("/") if paths else []
        yield Preference(
            id=_id(folders[-1].rpartition(".")[0] if folders else UNKNOWN, prompt),
            source=self.name,
            category=(folders[-2] if len(folders) > 1 else "") or UNKNOWN,
            question=_without_markers(_text(row, "question")),
            response_1=sections[4].strip(),
            response_2=sections[6].strip(),
            label=labels.pop(),
            images=images,
        )


_HEADINGS = re.compile(
    r"^#{2,6} (?:\*\*)?(\[Question\]|\[Response 1\]|\[Response 2\]|Output Format[^\n]*):?[ \t]*$", re.MULTILINE
)


class MMRLHF:
    """MM-RLHF (Hugging Face `yifanzhang114/MM-RLHF`): `dpo_pairs.jsonl`, and `data.jsonl` or its parquet.

    Pairs, of github.com/Kwai-YuanQi/MM-RLHF at 7c8af1d, `scripts/convert_to_swift.py`, `llava/train/train_dpo.py`
    [code] and issue 6 [card]: `id` (repeats), `image` or `video` (a folder of frames), `prompt`, `chosen`, `rejected`.
    `is_tie` is heeded where present; whether the release has it is unconfirmed.

    Rankings, of ShardulJunagade/cascaded-selective-evaluation at 6ba3108, `prepare_data/adapters/mm_rlhf.py`
    [report]: `question`, `models_output`, `final_ranking`, and the human scores `faithfulness`, `helpfulness`,
    `ethical`. Each pair of outputs with different ranks is a preference. That rank 1 is the best is unconfirmed, so a
    row whose ranking says otherwise than its scores is refused: where the direction is wrong, nearly all are.

    The category is the folder: long, short, mcq or safety; or video.
    """

    name = "mm-rlhf"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the pair with the chosen response first, or the pairs of a ranking with the better one first."""
        images, video = medias(row.get("image")), medias(row.get("video")) or None
        if not images and not video:
            raise ValueError("the row has neither an image nor a video")
        folders = images[0].path.split("/")[:-1] if images and images[0].path else []
        category = next((folder for folder in reversed(folders) if folder in _MM_RLHF_FOLDERS), UNKNOWN)
        if row.get("models_output") is not None:
            question = _text(row, "question")
            pairs = _ranked(row)
        else:
            question = _text(row, "prompt")
            if row.get("is_tie") not in (None, False, 0):
                raise Skipped(f"a tie (is_tie is {excerpt(row['is_tie'])})")
            pairs = [(_text(row, "chosen"), _text(row, "rejected"))]
        name, question = _text(row, "id"), _without_markers(question)
        yield from [
            Preference(
                id=_id(name, question, better, worse),
                source=self.name,
                category="video" if video else category,
                question=question,
                response_1=better,
                response_2=worse,
                label=1,
                images=images,
                video=video,
            )
            for better, worse in pairs
        ]


_MM_RLHF_FOLDERS = ("long", "short", "mcq", "safety")
_MM_RLHF_SCORES = ("faithfulness", "helpfulness", "ethical")


def _ranked(row: Row) -> list[tuple[str, str]]:
    """Return the pairs (better, worse) of an MM-RLHF ranking."""
    outputs, ranking = row["models_output"], row.get("final_ranking")
    if not (isinstance(outputs, list) and isinstance(ranking, list) and len(outputs) == len(ranking)):
        raise ValueError(
            f"models_output {excerpt(outputs)} and final_ranking {excerpt(ranking)}: lists of equal length are needed"
        )
    ranks = [_number("final_ranking", rank) for rank in ranking]
    scores = [0.0] * len(outputs)
    for name in _MM_RLHF_SCORES:
        given = row.get(name)
        # An aspect counts only where all outputs have it, else the sums could not be compared.
        if isinstance(given, list) and len(given) == len(outputs) and None not in given:
            scores = [total + _number(name, score) for total, score in zip(scores, given, strict=True)]
    agreement = 0
    pairs = []
    for i, j in combinations(range(len(outputs)), 2):
        if ranks[i] != ranks[j] and outputs[i] != outputs[j]:
            better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
            agreement += (scores[better] > scores[worse]) - (scores[better] < scores[worse])
            pairs.append((outputs[better], outputs[worse]))
    if agreement < 0:
        raise ValueError(
            f"final_ranking {ranking} with 1 for the best contradicts the sums of the scores {scores}; "
            "dpo_pairs.jsonl holds pairs whose direction is certain"
        )
    if not pairs:
        raise Skipped(f"no two different outputs have different ranks (final_ranking is {excerpt(ranking)})")
    return pairs


class RLAIFV:
    """RLAIF-V (Hugging Face `openbmb/RLAIF-V-Dataset`), parquet.

    Fields, of the card [card] and of github.com/RLHF-V/RLAIF-V at 83d917b, `muffin/data/datasets.py`,
    `muffin/eval/muffin_inference_logp.py` [code]: `question`, `chosen`, `rejected`, `image` (struct of bytes and path),
    `idx`, `origin_dataset` (the category here).

    Unconfirmed: whether `idx` is unique over all shards.
    """

    name = "rlaif-v"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the chosen response first."""
        question, chosen, rejected = (_text(row, name) for name in ("question", "chosen", "rejected"))
        yield Preference(
            id=_id(str(_required(row, "idx")), question, chosen, rejected),
            source=self.name,
            category=row.get("origin_dataset") or UNKNOWN,
            question=question,
            response_1=chosen,
            response_2=rejected,
            label=1,
            images=(_picture(row, "image"),),
        )


@dataclass(frozen=True)
class VLFeedback:
    """VL-Feedback (Hugging Face `MMInstruction/VLFeedback`), parquet or the older `vlfeedback_80k.jsonl`.

    Fields, of the card [card] and of github.com/vlf-silkie/VLFeedback at de0bff3, `run_dpo.py` [code]: `id`, `prompt`,
    `completions` (`response`, `annotations` with the three `_ASPECTS`, each with a `Rating` that is a text), and
    `img_path` (jsonl [card]) or `image` (parquet; TideDra/VL-RLHF at a0ea386, `src/vlrlhf/utils/data.py` [report]).

    As in the authors' code a response is worth the mean of its three ratings, and each pair of responses with
    different means is a preference; a response without three numbers is in no pair. The category is the id up to its
    first hyphen.

    Unconfirmed: which texts stand for no rating, and whether `completions` is a list of structs in the jsonl (both
    forms are read).

    Attributes:
        margin: least difference of the means, from 0 (any difference) to 4.
    """

    margin: float = 0.0
    name: ClassVar[str] = "vl-feedback"

    def __post_init__(self) -> None:
        if not isinstance(self.margin, int | float) or not 0 <= self.margin <= 4:
            raise ValueError(f"margin is {excerpt(self.margin)}; ratings from 1 to 5 differ by 0 to 4")

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the pairs of responses whose ratings differ enough, the better one first."""
        prompt, name = _text(row, "prompt"), _text(row, "id")
        images = (_picture(row, "image" if row.get("image") is not None else "img_path"),)
        rated: list[tuple[str, float]] = []
        unrated = []
        for index, (response, aspects) in enumerate(_completions(_required(row, "completions")), 1):
            try:
                if not isinstance(response, str) or not response.strip():
                    raise ValueError(f"its text is {excerpt(response)}")
                ratings = [_number(aspect, aspects[aspect]["Rating"]) for aspect in _ASPECTS]
            except (KeyError, TypeError):
                unrated.append(f"response {index} lacks a rating: {excerpt(aspects)}")
            except ValueError as error:
                unrated.append(f"response {index}: {error}")
            else:
                rated.append((response, sum(ratings) / len(ratings)))
        pairs = [
            (one[0], other[0]) if one[1] > other[1] else (other[0], one[0])
            for one, other in combinations(rated, 2)
            if one[0] != other[0] and one[1] != other[1] and abs(one[1] - other[1]) >= self.margin
        ]
        yield from [
            Preference(
                id=_id(name, prompt, better, worse),
                source=self.name,
                category=name.partition("-")[0] or UNKNOWN,
                question=prompt,
                response_1=better,
                response_2=worse,
                label=1,
                images=images,
            )
            for better, worse in pairs
        ]
        if unrated:
            raise Skipped(f"no pairs with some responses: {'; '.join(unrated)}")
        if not pairs:
            raise Skipped(f"no two ratings differ by more than 0 and at least {self.margin}: {[r for _, r in rated]}")


_ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


def _completions(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield response and annotations, from a list of structs or a struct of lists."""
    try:
        if isinstance(value, Mapping):
            yield from zip(value["response"], value["annotations"], strict=True)
        else:
            yield from [(item["response"], item["annotations"]) for item in value]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"completions is {excerpt(value)}; response and annotations of each are needed") from None


class POVID:
    """POVID (Hugging Face `YiyangAiLab/POVID_preference_data_for_VLLMs`), one JSON list.

    Fields, of github.com/YiyangZhou/POVID at 92c7c67, README and `llava/train/train_dpo.py` [code]: `id`, `image`
    (`./data/coco/<name>.jpg`; the pictures are COCO's and not part of it), `conversations` and
    `rejected_conversations`, lists of `from` (`human`, `gpt`) and `value`, with `<image>` in the question.

    Its rejected responses have invented objects written into them, so the category is "hallucination".

    Unconfirmed: whether ids are unique, and whether any conversation has several turns.
    """

    name = "povid"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, the preferred response first."""
        chosen, rejected = (
            _turns(name, _required(row, name), "from", "value", {"human": "user", "gpt": "assistant"})
            for name in ("conversations", "rejected_conversations")
        )
        question, better, worse = _compared(chosen, rejected)
        question = _without_markers(question)
        yield Preference(
            id=_id(_text(row, "id"), question, better, worse),
            source=self.name,
            category="hallucination",
            question=question,
            response_1=better,
            response_2=worse,
            label=1,
            images=(_picture(row, "image"),),
        )


class WildVisionBattle:
    """WildVision-Battle (Hugging Face `WildVision/wildvision-battle`), parquet.

    Fields, of the card of the same team's `WildVision/wildvision-internal-data`, configuration `battle` [card], and of
    github.com/WildVision-AI/WildVision-Arena at 364d739, `arena/serve/monitor/clean_battle_data.py`,
    `scripts/upload_precompute_hf.py` [code]: `question_id` (repeats: several votes), `conversation_a`,
    `conversation_b` (lists of `role` and `content`), `winner` (`model_a`, `model_b`, `tie`, `tie (bothbad)`), `anony`,
    `image`, in some configurations `domain` (the category here).

    Skipped: ties, votes of people who could see which model was which, and several turns, unless the models had
    answered alike up to the last. Votes by machine (`judge` gpt4v) count like those of people.

    Unconfirmed: all of it for the released file itself, whose own card names no columns.
    """

    name = "wildvision-battle"

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's pair, model a's response first."""
        winner = _required(row, "winner")
        if winner in ("tie", "tie (bothbad)"):
            raise Skipped(f"a tie (winner is {winner!r})")
        if winner not in ("model_a", "model_b"):
            raise ValueError(f"winner is {excerpt(winner)}, not model_a, model_b, tie or tie (bothbad)")
        if row.get("anony") is False:
            raise Skipped("the voter could see the models' names (anony is False)")
        one, other = (
            _turns(name, _required(row, name), "role", "content", {"user": "user", "assistant": "assistant"})
            for name in ("conversation_a", "conversation_b")
        )
        question, response_1, response_2 = _compared(one, other)
        yield Preference(
            id=_id(_text(row, "question_id"), question, response_1, response_2),
            source=self.name,
            category=row.get("domain") or UNKNOWN,
            question=question,
            response_1=response_1,
            response_2=response_2,
            label=1 if winner == "model_a" else 2,
            images=(_picture(row, "image"),),
        )


Turns = list[tuple[str, str]]


def _turns(name: str, value: Any, role: str, content: str, roles: Mapping[str, str]) -> Turns:
    """Return the (role, text) of a conversation, checked to be user, assistant, ..., assistant."""
    try:
        turns = [(roles[turn[role]], turn[content]) for turn in value]
    except (KeyError, TypeError):
        raise ValueError(f"{name} is {excerpt(value)}; turns with {role!r} and {content!r} are needed") from None
    if not turns or [who for who, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"{name} has turns of {[who for who, _ in turns]}, not of user and assistant by turns")
    if wrong := [text for _, text in turns if not isinstance(text, str)]:
        raise ValueError(f"{name} holds {excerpt(wrong[0])}, which is no text")
    return turns


def _compared(one: Turns, other: Turns) -> tuple[str, str, str]:
    """Return question and responses of two conversations that differ in their last answers only."""
    if one[:-1] != other[:-1]:
        if len(one) == len(other) == 2:
            raise ValueError(
                f"the two conversations have different questions: {excerpt(one[0][1])}, {excerpt(other[0][1])}"
            )
        raise Skipped(
            f"the two conversations ({len(one) // 2} and {len(other) // 2} turns) differ before the last answer"
        )
    history = one[:-1]
    question = history[0][1] if len(history) == 1 else "\n\n".join(f"{who.title()}: {text}" for who, text in history)
    return question, one[-1][1], other[-1][1]


@dataclass(frozen=True)
class Plain:
    """Any jsonl, CSV or parquet file, its columns named by a mapping.

    Fields: `question`; `response_1`, `response_2` and `label`, or `chosen` and `rejected`; optional are `id` (without
    it a hash of the texts), `source`, `category`, `images` or `image`, `video`, `difficulty`, `trace`. Pictures are a
    path, a data URI, a struct with `path` or `bytes`, a list of these, or the JSON text of such a list; a video is a
    path or a list of frames. Empty and null values of optional fields mean that there is none.

    Attributes:
        columns: field -> column of the file; a field that is not in it stands in the column of its own name.
        name: `Preference.source` of rows without a `source`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    name: str = "plain"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.columns if name not in _PLAIN_FIELDS]:
            raise ValueError(f"field {unknown[0]!r} is unknown; known: {', '.join(_PLAIN_FIELDS)}")

    def read(self, row: Row, number: int) -> Iterator[Preference]:
        """Yield the row's preference; of `chosen` and `rejected` the chosen response first."""
        if missing := [column for column in self.columns.values() if column not in row]:
            raise ValueError(f"no column {missing[0]!r} (there are: {', '.join(map(str, row)) or 'none'})")

        def column(name: str) -> str:
            return self.columns.get(name, name)

        def optional(name: str) -> Any:
            value = row.get(column(name))
            return None if value == "" else value

        question = _without_markers(_text(row, column("question")))
        if column("label") in row or column("chosen") not in row:
            responses = _text(row, column("response_1")), _text(row, column("response_2"))
            label = parse_label(_required(row, column("label")))
        else:
            responses = _text(row, column("chosen")), _text(row, column("rejected"))
            label = 1
        identity = optional("id")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        difficulty = optional("difficulty")
        if isinstance(difficulty, str) and difficulty.isascii() and difficulty.isdigit():
            difficulty = int(difficulty)
        images = optional("images")
        yield Preference(
            id=_id(self.name, question, *responses) if identity is None else identity,
            source=optional("source") or self.name,
            category=optional("category") or UNKNOWN,
            question=question,
            response_1=responses[0],
            response_2=responses[1],
            label=label,
            images=medias(optional("image") if images is None else images),
            video=medias(optional("video")) or None,
            difficulty=difficulty,
            trace=optional("trace"),
        )


_PLAIN_FIELDS = (
    *("id", "source", "category", "question", "response_1", "response_2", "label", "chosen", "rejected"),
    *("images", "image", "video", "difficulty", "trace"),
)


SOURCES: dict[str, Callable[..., Source]] = {
    "r1-reward-rl": R1RewardRL,
    "mm-rlhf": MMRLHF,
    "rlaif-v": RLAIFV,
    "vl-feedback": VLFeedback,
    "povid": POVID,
    "wildvision-battle": WildVisionBattle,
    "plain": Plain,
}
"""The sources that come with this project: name -> what makes one."""


def source_names() -> list[str]:
    """Return the names that `load_source` knows, those of entry points last; nothing is imported."""
    return [*SOURCES, *sorted({point.name for point in entry_points(group=GROUP)} - SOURCES.keys())]


def load_source(name: str, /, **options: Any) -> Source:
    """Make the source of that name, of this project or of an entry point in the group `r1reward_verl.sources`.

    Args:
        name: one of `source_names()`.
        options: of the source, as keywords.

    Raises:
        ValueError: no source or several of that name, an option that it does not have or a value that it refuses, or
            an entry point that cannot be loaded or does not make a source.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(points) + (name in SOURCES) > 1:
        others = ", ".join(_described(point) for point in points)
        raise ValueError(
            f"several sources are called {name!r}: {others}{' and one of r1reward_verl' * (name in SOURCES)}"
        )
    if name in SOURCES:
        make, what = SOURCES[name], f"source {name!r}"
    elif points:
        what = f"source {name!r} ({_described(points[0])})"
        try:
            make = points[0].load()
        except Exception as error:
            raise ValueError(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error
        if not callable(make):
            raise ValueError(f"{what} is {excerpt(make)}; a class or function that makes a source is needed")
    else:
        raise ValueError(f"source {name!r} is unknown; known: {', '.join(source_names())}")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ValueError(f"{what}: {error} (given: {options or 'no options'})") from None
    try:
        source = make(**options)
    except Exception as error:
        raise ValueError(f"{what} cannot be made: {error}") from error
    if not isinstance(getattr(source, "name", None), str) or not callable(getattr(source, "read", None)):
        raise ValueError(f"{what} made {excerpt(source)}, which lacks a name or read(row, number)")
    return source


def _described(point: EntryPoint) -> str:
    dist = getattr(point, "dist", None)
    return f"entry point {point.value!r}" + (f" of {dist.name}" if dist else "")


def media(value: Any) -> Media:
    """Return the picture or video that a value of a data set means.

    Args:
        value: a path, a data URI, base64 of a picture, bytes, or a mapping with `bytes`, `image` or `path`.

    Raises:
        ValueError: none of these, or an address: nothing is fetched.
    """
    source = image_source(value)
    if isinstance(source, bytes):
        return Media(data=source)
    if isinstance(source, str) and source.startswith("data:"):
        head, comma, text = source.partition(",")
        data = _base64(text) if comma and head.endswith(";base64") else None
        if not data:
            raise ValueError(f"the data URI {excerpt(source)} does not hold base64")
        return Media(data=data)
    if isinstance(source, str) and source:
        # Base64 of a JPEG begins with a slash, too.
        if len(source) > 64 and not _PICTURE_FILE.fullmatch(source):
            data = _base64(source)
            if data and data.startswith(_PICTURE_START):
                return Media(data=data)
            if len(source) > 4096:
                raise ValueError(f"{excerpt(source)} is neither a path nor base64 of a picture")
        return Media(path=source.removeprefix("file://"))
    raise ValueError(f"{excerpt(value)} holds no picture or video: a path or the bytes of a file are needed")


def medias(value: Any) -> tuple[Media, ...]:
    """Return the media in a list, the JSON text of a list, or a single value; none for None, "" and an empty list.

    Raises:
        ValueError: see `media`.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{excerpt(value)} begins like a JSON list of media, but is none: {error}") from None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(media(item) for item in value)
    return (media(value),)


def _base64(text: str) -> bytes | None:
    if "\n" in text:  # wrapped, as MIME does
        text = "".join(text.split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _id(base: str, *texts: str) -> str:
    """Return an id that is the same in every file, and another for each pair where a data set repeats its own."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{base}#{digest[:16]}"


def _picture(row: Row, name: str) -> Media:
    value = _required(row, name)
    try:
        return media(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _without_markers(text: str) -> str:
    if "<image>" not in text and "<video>" not in text:
        return text
    return " ".join(filter(None, (piece.strip() for piece in _MARKER.split(text))))


def _required(row: Row, name: str) -> Any:
    if name not in row:
        raise ValueError(f"no column {name!r} (there are: {', '.join(map(str, row)) or 'none'})")
    return row[name]


def _text(row: Row, name: str) -> str:
    value = _required(row, name)
    if not isinstance(value, str) or not value or value.isspace():
        raise ValueError(f"{name} is {excerpt(value)}; a text that is not empty is needed")
    return value


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {excerpt(value)}, not a number") from None
    if not -1e6 < number < 1e6:  # nan compares false
        raise ValueError(f"{name} is {excerpt(value)}, not a number")
    return number
