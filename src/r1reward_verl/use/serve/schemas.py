"""What clients send and get: the JSON of every route, and what is made of it.

Media come as data URIs only. Nothing is fetched, and no file of this machine is read. Decoding ends at the first fault,
so that a body full of them costs no more than a good one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from r1reward_verl.media import Media, decoded, load_image, look_at
from r1reward_verl.text import check_text, excerpt
from r1reward_verl.use.comparison import Comparison, Question, Response
from r1reward_verl.use.model import JudgeResult, RankResult
from r1reward_verl.use.serve.errors import ServeError, invalid
from r1reward_verl.use.settings import RankSettings

T = TypeVar("T")

_DATA_URI = re.compile(r"data:image/[A-Za-z0-9.+-]+;base64,")
_FAULT = re.compile(r"(?P<what>.*?)(?: `(?P<name>[^`]*)`)?(?: - at `\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_SMALL = 1 << 20  # bytes of a body, and of its parts that are no strings
_STRINGS = 100_000


def about(text: str) -> msgspec.Meta:
    """Describe a field in the OpenAPI schema."""
    return msgspec.Meta(description=text)


def _options(settings: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return the JSON object that overrides some of the settings of a class."""
    hints = get_type_hints(settings, include_extras=True)
    fields = []
    for name in settings.__struct_fields__:
        hint, meta = get_args(hints[name])
        fields.append((name, Annotated[hint | msgspec.UnsetType, about(meta.description)], msgspec.UNSET))
    return msgspec.defstruct("RankOptions", fields, forbid_unknown_fields=True, module=__name__)


RankOptions = _options(RankSettings)

Picture = Annotated[str, about("A picture file as a data URI: data:image/png;base64,...")]


class VideoIn(msgspec.Struct, forbid_unknown_fields=True):
    """A video as its frames in time order."""

    video: Annotated[list[Picture], msgspec.Meta(min_length=1)]


class ResponseIn(msgspec.Struct, forbid_unknown_fields=True):
    """A response with pictures, for example generated ones."""

    text: str = ""
    images: list[Picture] = []


AnyResponse = str | ResponseIn
AnyMedia = Annotated[list[Picture | VideoIn], about("Pictures and videos of the question, in order.")]


class JudgeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Two responses to a question."""

    question: str
    media: AnyMedia = []
    response_1: AnyResponse
    response_2: AnyResponse
    both_orders: Annotated[bool, about("Show the pair a second time, exchanged.")] = True


class RankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Responses to a question."""

    question: str
    media: AnyMedia = []
    responses: Annotated[list[AnyResponse], msgspec.Meta(min_length=1)]
    reference: Annotated[AnyResponse | None, about("Compare each response with this one, in place of each other.")] = (
        None
    )
    settings: Annotated[
        RankOptions | None,  # type: ignore[valid-type]
        about("Settings for this request; by default those of the service."),
    ] = None


class CohortRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One response of a group whose responses are sent one by one."""

    question: str
    media: AnyMedia = []
    cohort: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    size: Annotated[int, msgspec.Meta(ge=1, description="Number of responses in the group.")]
    response: AnyResponse
    member: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    settings: RankOptions | None = None  # type: ignore[valid-type]


class RemoteRequest(msgspec.Struct):
    """What OpenRLHF sends to a remote reward model."""

    query: Annotated[list[str], about("Prompts with their responses, with special tokens.")]
    prompts: list[str]
    labels: Annotated[list[str | float | None] | None, about("Reference answers.")] = None


class ComparisonOut(msgspec.Struct):
    """A pair of responses shown in one order. Positions count from 0; that of a reference follows the last response."""

    first: int
    second: int
    verdict: Annotated[int | None, about("Position of the better one; null: a tie, or unreadable.")]
    probability: Annotated[float | None, about("That the response shown first is better.")]
    reasoning: Annotated[str, about("Of a judgement with this verdict; all of it if it is unreadable.")]
    error: str


class _Compared(msgspec.Struct, kw_only=True):
    comparisons: list[ComparisonOut]
    failed: Annotated[int, about("Comparisons without a readable judgement.")]
    error: Annotated[str, about("What went wrong last; empty if nothing did.")]


class JudgeAnswer(_Compared, kw_only=True):
    """Which of two responses is better."""

    verdict: Annotated[Literal[1, 2] | None, about("The better response; null: a tie, or unreadable.")]
    probability: Annotated[float | None, about("That response 1 is better, over both orders.")]
    reasoning: str
    orders_disagree: Annotated[bool, about("Whether the verdict depends on the order.")]
    disagreement: Annotated[float, about("Share of the judgements that choose the other response.")]


class ScoreAnswer(msgspec.Struct, kw_only=True):
    """Scores of responses, higher is better."""

    scores: list[float]
    standard_errors: list[float]
    compared: Annotated[int, about("Number of comparisons.")]
    failed: int
    error: str


class RankAnswer(_Compared, kw_only=True):
    """How the responses of a group compare."""

    scores: list[float]
    standard_errors: list[float]
    ranks: Annotated[list[float], about("1 for the best; ties share the mean of their ranks.")]
    order: Annotated[list[int], about("Positions from the best to the worst.")]
    cycles: Annotated[int, about("Triples in which A beats B, B beats C and C beats A.")]
    order_disagreements: Annotated[int, about("Pairs whose verdict depends on their order.")]
    ties: int


class CohortAnswer(msgspec.Struct, kw_only=True):
    """The score of one response within its group."""

    score: float
    standard_error: float
    rank: float
    cohort: str
    size: Annotated[int, about("Number of responses that the group should have had.")]
    present: Annotated[int, about("Number that were compared.")]
    partial: Annotated[bool, about("Whether responses were missing when the time was over.")]
    compared: int
    failed: int
    cycles: int
    error: str


class RemoteAnswer(msgspec.Struct, kw_only=True):
    """What OpenRLHF reads."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What is wrong with a request."""

    type: str
    message: str
    field: str | None = None
    row: int | None = None


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The answer to a request without a result."""

    error: ErrorDetail


def read_body(model: type[T], body: bytes | bytearray) -> T:
    """Return what a body says.

    Raises:
        ServeError: it is no JSON, or not of this form; the first fault is named.
    """
    _check_structure(body)
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise _fault(model, str(error)) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ServeError(400, "invalid_json", f"the body is no JSON: {error}") from None


def _check_structure(body: bytes | bytearray) -> None:
    """Refuse a large body of many small values, which would take many times its size in memory."""
    if len(body) <= _SMALL:
        return
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', 2 * _STRINGS + 1)
    if len(pieces) > 2 * _STRINGS or sum(map(len, pieces[::2])) > _SMALL:
        raise ServeError(413, "too_large", "the body has too many values: send the rows in several requests")


def _fault(model: type[Any], text: str) -> ServeError:
    """Return the error for what msgspec says: what, the name of a field or type, the place."""
    found = _FAULT.fullmatch(text)
    assert found
    what, name, place = found["what"], found["name"], found["place"] or ""
    if name and what == "Object missing required field":
        place, text = f"{place}.{name}".lstrip("."), "this field is missing"
    elif name and what == "Object contains unknown field":
        known = f": {', '.join(model.__struct_fields__)} are the ones of this request" if not place else ""
        place, text = f"{place}.{name}".lstrip("."), f"there is no such field{known}"
    else:
        text = f"{text.partition(' - at `')[0]} (/openapi.json describes it)"
    return invalid(f"{place or 'the body'}: {text}", place or None)


def rank_settings(default: RankSettings, options: msgspec.Struct | None) -> RankSettings:
    """Return the settings of a request.

    Raises:
        ServeError: a value outside its bounds.
    """
    if options is None:
        return default
    try:
        return msgspec.structs.replace(default, **msgspec.to_builtins(options))
    except ValueError as error:
        raise invalid(f"settings: {error}", "settings") from None


def make_question(asked: JudgeRequest | RankRequest | CohortRequest) -> Question:
    """Return the question of a request; for a thread, as it decodes pictures' headers.

    Raises:
        ServeError: the text is empty, or a picture is none; the field is named.
    """
    images, videos = [], []
    for number, one in enumerate(asked.media):
        if isinstance(one, str):
            images.append(_picture(one, f"media[{number}]"))
        else:
            frames = enumerate(one.video)
            videos.append(tuple(_picture(frame, f"media[{number}].video[{index}]") for index, frame in frames))
    _check_text("question", asked.question)
    return Question(asked.question, tuple(images), tuple(videos))


def make_response(value: str | ResponseIn, field: str) -> Response:
    """Return a response of a request; see `make_question`."""
    if isinstance(value, str):
        _check_text(field, value)
        return Response(value)
    images = tuple(_picture(one, f"{field}.images[{number}]") for number, one in enumerate(value.images))
    if not images:
        _check_text(f"{field}.text", value.text)
    return Response(value.text, images)


def _check_text(field: str, text: str) -> None:
    try:
        check_text(field, text)
    except ValueError as error:
        raise invalid(str(error), field) from None


def _picture(uri: str, field: str) -> Media:
    if not _DATA_URI.match(uri):
        raise invalid(
            f"{field} is {excerpt(uri)}: addresses are not fetched and files are not read; send the picture itself as "
            "data:image/png;base64,... (videos as {'video': [frames]})",
            field,
        )
    try:
        media = Media(data=decoded(uri))
        look_at(media.data or b"")
    except ValueError as error:
        raise invalid(f"{field}: {error}", field) from None
    return media


def damaged_picture(question: Question, responses: Sequence[tuple[str, Response]]) -> ServeError | None:
    """Return the error for the first picture whose content is damaged, None if all can be decoded; for a thread."""
    named = [(f"media ({number})", one) for number, one in enumerate(question.images)]
    named += [("media", frame) for video in question.videos for frame in video]
    named += [
        (f"{name}.images[{number}]", one) for name, response in responses for number, one in enumerate(response.images)
    ]
    for field, media in named:
        try:
            load_image({"bytes": media.data})
        except ValueError as error:
            return invalid(f"{field}: {error}", field)
    return None


def judge_answer(result: JudgeResult) -> JudgeAnswer:
    """Return the JSON of a judgement."""
    return JudgeAnswer(
        verdict=result.verdict,
        probability=result.probability,
        reasoning=result.reasoning,
        orders_disagree=result.orders_disagree,
        disagreement=result.disagreement,
        **_compared(result.comparisons, result.error),
    )


def rank_answer(result: RankResult) -> RankAnswer:
    """Return the JSON of a ranking."""
    return RankAnswer(
        scores=list(result.scores),
        standard_errors=list(result.standard_errors),
        ranks=result.ranks,
        order=result.order,
        cycles=result.cycles,
        order_disagreements=result.order_disagreements,
        ties=result.ties,
        **_compared(result.comparisons, result.error),
    )


def _compared(comparisons: Sequence[Comparison], error: str) -> dict[str, Any]:
    return {
        "comparisons": [
            ComparisonOut(
                first=one.first,
                second=one.second,
                verdict=None if one.probability in (None, 0.5) else one.first if _won(one) else one.second,
                probability=one.probability,
                reasoning=one.reasoning or (one.texts[0] if one.texts else ""),
                error=one.error,
            )
            for one in comparisons
        ],
        "failed": sum(one.probability is None for one in comparisons),
        "error": error,
    }


def _won(comparison: Comparison) -> bool:
    return comparison.probability is not None and comparison.probability > 0.5
