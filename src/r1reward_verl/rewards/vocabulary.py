"""The words and expressions by which `conclusions` reads English.

A new word goes into its set, a new expression into `_EXPRESSIONS`, which rewrites it to words of the sets.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Set

from r1reward_verl.rewards.names import word_set as _words

# What is said of a response as a whole.
BETTER = _words(
    "better beter best preferable preferred prefered superior stronger strongest winner win wins won prevails "
    "triumphs favored favoured"
)
BEATS = _words("beats outperforms surpasses dominates trumps eclipses outclasses outshines outdoes")
WORSE = _words("worse worst inferior weaker weakest loses loser")
PREFER = _words("prefer prefers choose pick select favor favors favour favours favouring favoring recommend")
EQUAL = _words("equal equally tie tied draw")
ALIKE = _words("equivalent comparable similar identical indistinguishable same")
APPROVAL = _words("good correct right accurate acceptable fine valid excellent great helpful")

# What is said of one quality: "more precise", "less complete", "clearer".
DEGREES = {"more": 1, "most": 1, "less": -1, "least": -1}
COMPARATIVES = _words("safer clearer sharper cleaner richer fuller closer deeper sounder smoother excels")
QUALITY = re.compile(
    r"\w{2,}(?:ed|ful|fully|ive|able|ible|ing|ate|ent|ant|ous|ly|al|ise|ete|ough|thy|ic|und|ect|act|icit|inct|est)|"
    r"clear|apt|robust|polite|vivid|solid|true|natural|vague|verbose|wordy"
)
"""Ends of words that can be a quality; "more words" and "more of it" say nothing."""
NEUTRAL = _words("general formal important different difficult common likely interesting recent")
BAD_QUALITY = _words(
    "vague verbose wordy confusing misleading repetitive inaccurate problematic speculative superficial"
)

# What is said of a response without a comparison.
PRAISE = APPROVAL | _words(
    "precise clean clear concise truthful correctly accurately rightly properly safe faithful matches sound "
    "complete thorough answers follows addresses"
)
FAULTS = _words(
    "vague imprecise strays suffers marred forgets poor bad wrong wrongly incorrect incorrectly inaccurate "
    "inaccuracies incomplete unhelpful irrelevant unsafe unsupported error errors mistake mistakes mistaken flaw "
    "flaws flawed gap gaps crashes fails failed lacks lacking misses missed misreads misread misinterprets "
    "misunderstands misidentifies misstates mislabels miscounts misrepresents confuses contradicts ignores ignored "
    "overlooks neglects omits omitted exaggerates repeats hallucinates hallucinated invents invented fabricates "
    "fabricated"
)
CONTENT = _words(
    "includes mentions provides names identifies describes explains covers notes captures notices runs passes works "
    "avoids solves handles shows declines meets hits satisfies does gets gives has uses compiles"
)
"""What tells only beside a fault of the other response."""

# What changes the meaning of other words.
NEGATIONS = _words("not never cannot hardly nor nobody nothing")
NOT_NEGATED = _words("only just merely simply")  # "not only accurate"
HEDGES = _words("whether could might may maybe perhaps possibly")
RETRACTIONS = _words("wait back")  # "no, wait"
CONDITIONS = _words("if unless")
UNREAL = _words("if had were assuming suppose")  # "if the sky were red, response 1 would be better"
CONCESSIONS = _words("although though despite")
CONTRASTS = _words("while whereas")
TURNS = _words("but however yet still nevertheless nonetheless actually")
JOINTS = _words(", and")
MARKERS = _words("therefore thus hence hense overall conclusion summary ultimately finally consequently")
REASONS = _words("because since due given")
COMPARING = _words("than over above below unlike versus vs against compared")
ELLIPSES = _words("is does should was")  # "response 1 isn't better, response 2 is"

LEADS = MARKERS | _words(
    "so the my i will would should must let final answer verdict choice decision preference judgment judgement "
    "result winner vote better best preferred correct selected is be goes to go going with for a , response text "
    "boxed clearly definitely certainly option pick choose select prefer this that has have makes leaves which who "
    "favor favour chosen selection assessment evaluation recommendation in advantage ergo say"
)
"""Words beside which a sentence of nothing but a name is a conclusion: "Final verdict: Response 1"."""
ORDERS = _words("output reply give")  # "I will output 1" is a conclusion, "Output 1" is none
ASIDES = REASONS | _words(
    "for as mainly mostly largely primarily thanks then clearly without though although by with "
    "i imo but narrowly barely"
)
"""Words that may follow such a conclusion: "Best response: Response 2, for its precision"."""

_EXPRESSIONS = tuple(
    (triggers.split(), re.compile(rf" (?:{expression})(?= )"), meaning and f" {meaning}")
    for triggers, expression, meaning in (
        # emphasis that is no negation
        ("no beyond without", "(?:no|without|beyond)(?: a| any)? (?:doubt|question)(?: that)?", ""),
        ("denied", "(?:cannot|can't not) be denied(?: that)?", ""),
        ("nothing", "nothing (?:less|short) (?:than|of)", ""),
        # denials
        ("doubt", "i doubt(?: that)?", "not"),
        ("far anything", "(?:far from(?: being)?|anything but)(?: the| a)? (?:better|best|superior|stronger)", "worse"),
        ("far", "far from(?: being)?", "not"),
        ("means way chance", "(?:(?:by|in) )?no (?:means|way|chance)(?: that)?", "not"),
        ("reason", "no (?:good )?reason to", "not"),
        ("fails", "fails to be", "not"),
        (
            "false wrong untrue incorrect unfair",
            "(?:is|be) (?:false|wrong|untrue|incorrect|unfair) (?:that|to (?:say|claim|call|consider))",
            "not",
        ),
        (
            "mistake error wrong incorrect unwise unfair",
            "(?:would|will) be (?:a mistake|an error|wrong|incorrect|unwise|unfair) to (?:choose|pick|prefer|select)",
            "reject",
        ),
        ("choosing picking preferring selecting", "(?:choosing|picking|preferring|selecting)(?= r[12] \\.)", "prefer"),
        (
            "mistake error wrong incorrect unwise",
            r"(?:choosing|picking|preferring|selecting) (r[12])( .*)? would be "
            "(?:a mistake|an error|wrong|incorrect|unwise)",
            r"reject \1",
        ),
        (
            "chosen preferred selected picked",
            "(?:would|wouldn't|should|shouldn't) not be (?:chosen|preferred|selected|picked)",
            "is worse",
        ),
        (
            "choose pick prefer select recommend",
            "(?:would|wouldn't|should|shouldn't) not (?:choose|pick|prefer|select|recommend)",
            "reject",
        ),
        ("not", "not (r[12])(?: ,)? but|, not r[12](?= ,| .$)", ""),
        ("costs cost", "costs? r[12] the (?:win|victory|lead|comparison)", ""),
        (
            "match reach rival come live measure",
            "(?:not|cannot) (?:match|reach|rival|come close to|live up to|measure up to)"
            "(?: the (?:quality|level|accuracy) of)?(?= r[12])",
            "is worse than",
        ),
        ("as", "not (?:nearly |quite |at all )?as (?:good|well|strong|convincing)(?= as)", "worse than"),
        ("as", r"not (?:nearly |quite |at all )?as (\w+)(?= as)", r"less \1 than"),
        ("as", r"(?:just |equally )?as (?!well|long|soon|far|much|many|such|they|it)\w+ as", "equal"),
        # doubt, earlier beliefs, and what others believe or say
        ("hard difficult impossible", "(?:hard|difficult|impossible) to (?:say|tell|decide|judge)", "whether"),
        ("need", r"need (?:\w+ ){0,4}to (?:say|tell|judge|decide|know)", "whether"),
        ("determine", "(?:hard|difficult|impossible) to determine", "whether"),
        ("first", "at first(?: glance| sight)?|(?:my )?first impression", "atfirst"),
        ("initially surface", "initially|on the surface", "atfirst"),
        ("was tempted", "(?:was|am|is|be) (?:going|inclined|tempted|about) to", "could"),
        ("why", "why i (?:chose|picked|selected)", "prefer"),
        (
            "i",
            "i (?:first |almost |initially )*(?:thought|believed|considered|went|leaned|leant|preferred|favou?red|said|"
            "assumed|"
            "chose|picked|(?:started|began|set) (?:out |off )?(?:by )?(?:favou?ring|preferring|with)|took)",
            "could",
        ),
        ("looked seemed appeared", "looked|seemed|appeared", "could"),
        ("some others many people readers", "(?:some|others|many|people|readers) would", "could"),
        ("had", "had (?:it|they|the|r[12])", "if"),
        (
            "thinks believes claims says prefers",
            "(?:user|author|caption|prompt|question|text) (?:thinks|believes|claims|says|prefers)",
            "could",
        ),
        (
            "says states claims writes asserts insists argues suggests",
            "(?:(?<=r1 )|(?<=r2 ))(?:says|states|claims|writes|asserts|insists|argues|suggests) "
            "(?:that|it|itself|to be|r[12])",
            "could",
        ),
        ("says", "says to (?:prefer|choose|pick|select)", "could"),
        ("mentions recommends", "(?:mentions|recommends) an? (?:better|best)", ""),
        ("according", "according to r[12]", "could"),
        # turns and conclusions
        ("even", "even (?:if|though)", "although"),
        ("long", "as long as", "if"),
        ("spite", "in spite of", "despite"),
        ("end", "in the end", "overall"),
        (
            "inspection look reading examination thought",
            "on (?:a )?(?:closer|second) (?:inspection|look|reading|examination|thought)",
            "actually",
        ),
        ("based", "based on (?:this|these|that|the above)(?: [a-z]+)?", "therefore"),
        ("given reasons mind considered", "given (?:this|that|the above|these [a-z]+)|for these reasons", "therefore"),
        ("if", "if (?:i|we|one) (?:had|have|were|must) to (?:choose|pick|decide)|if (?:pressed|forced|pushed)", ""),
        ("rather instead", "rather than|instead of", "than"),
        ("contrast contrary opposed", "in contrast to|contrary to|as opposed to", "unlike"),
        # choices
        (
            "correct right",
            r"(r[12] is (?:\w+ )?)the (?:only )?(?:correct|right) (?:one|choice|answer|response)",
            r"\1best",
        ),
        ("one", "is (?:clearly |therefore |really )?the one(?= [.,])", "wins"),
        ("what", "is what the (?:user|reader|question) (?:needs|wants|asks for|asked for)", "wins"),
        ("give send take", "i would (?:give|send|take)(?! r[12] (?:an? )?[0-9])", "i prefer"),
        (
            "edge advantage hand lead",
            "(?:has|have|had|holds|takes|gets) (?:the|a|an) (?:slight |clear |small |decisive )?"
            "(?:edge|advantage|upper hand|lead)",
            "wins",
        ),
        ("out", "(?:comes?|came) out (?:slightly )?(?:ahead|on top|first)|wins out", "wins"),
        ("ahead", "is (?:also |clearly |slightly )?ahead(?: of)?", "beats"),
        ("stands", "stands out", "wins"),
        ("stands", "stands above", "beats"),
        ("cut prize day", "is a cut above|takes the prize|carries the day", "wins"),
        ("correct right accurate", "is the one that is (?:correct|right|accurate)", "wins"),
        ("liking taste", "more to my (?:liking|taste)", "preferable"),
        ("convinces appeals", "(?:convinces me|appeals to me) more", "is better"),
        ("desired", "leaves (?:much|a lot|something) to be desired", "flawed"),
        ("lacking", "lacking (?:in comparison|compared) (?:to|with)", "worse than"),
        (
            "preference advantage point inclination",
            "(?:preference|advantage|point|inclination) (?:is )?(?:for|towards?)(?= r[12])",
            "prefer",
        ),
        ("settle decide decided for vote", "(?:settle on|decided? (?:on|for)|go for|vote)(?= r[12])", "prefer"),
        ("chosen selected", r"(?:is|be|was|gets|being) (?:\w+ )?(?:chosen|selected)", "wins"),
        ("rate", r"rate (?:their|its) (?:response|answer) (?:\w+ )?(?:higher|better)", "overall wins"),
        (
            "takes gets my",
            "takes it|gets my (?:vote|pick)|(?:is|be|remains) (?:still )?my (?:pick|choice|preference)",
            "wins",
        ),
        ("deserves", "deserves (?:to win|the win|the preference)", "wins"),
        ("deserves", "deserves (?:a|the) (?:higher|better) (?:rating|score|mark)", "wins"),
        ("edges tops exceeds", "edges out|tops|exceeds", "beats"),
        ("falls fall lags trails loses", "falls? short(?: of)?|lags behind|trails|loses (?:out )?to", "is worse than"),
        ("higher above", r"(?:rate|rank|score|place|put) (r[12]) (?:\w+ )?(?:higher|above)", r"prefer \1 above"),
        (
            "higher highest ranks rank ranked",
            "(?:scores?|ranks?|rates?|rated|ranked|scored) (?:(?!r[12] )\\w+ )?(?:higher|highest|first)|"
            "(?:a|the) (?:higher|highest) (?:score|rating|mark|grade|quality|rank)",
            "wins",
        ),
        (
            "level degree amount",
            "(?:higher|greater|better|deeper) (?:level|degree|amount) of (?:detail|depth|accuracy|clarity|helpfulness|"
            "relevance|precision)",
            "more accurate",
        ),
        (
            "more greater",
            "(?:provides?|provided|offers?|offered|gives?|gave|has|had|contains?|includes?|included|adds?|shows|with|into)"
            "(?: slightly| much| far| a bit| a little| even| significantly)? (?:more|greater) (?:details?|depth|"
            "context|nuance|insights?|clarity|accuracy|precision|information|variety|examples|guidance|value|thought)",
            "more accurate",
        ),
        (
            "sense point topic date",
            "makes more sense|more (?:on|to|up to) (?:the )?(?:point|topic|target|date)",
            "more accurate",
        ),
        ("way offer", "is the way to go|has more to offer", "wins"),
        ("rank rate put place", r"(?:rank|rate|put|place) (r[12]) (?:first|on top|at the top)", r"prefer \1"),
        (
            "beaten outperformed surpassed outdone match compete pales",
            "is (?:beaten|outperformed|surpassed|outdone) by|is no match for|cannot compete with|"
            "pales (?:in comparison (?:to|with)|beside|next to)",
            "is worse than",
        ),
        ("less", "less (?:detail|depth|context|clarity|accuracy|information)", "less accurate"),
        ("line depth", "more in (?:line|depth)", "more accurate"),
        (
            "lower below beneath behind",
            r"(?:rate|rank|score|place|put) (r[12]) (?:\w+ )?(?:lower|below|beneath|behind)",
            r"reject \1 below",
        ),
        (
            "lower lowest",
            r"(?:scores?|ranks?|rates?|rated|ranked|scored) (?:\w+ )?(?:lower|lowest)|"
            "(?:a|the) (?:lower|lowest) (?:score|rating|mark|grade|quality|rank)",
            "is worse",
        ),
        ("difference", r"no (?:\w+ )?difference", "equal"),
        ("out", "(?:balance|even|cancel)(?: each other| one another)? out", "equal"),
        ("par", "on (?:a )?par", "equal"),
        (
            "right correct truth",
            "(?:has|gives|gets|got|reaches) the (?:right|correct) (?:answer|result|count|number|conclusion)|"
            "matches the ground truth",
            "more accurate",
        ),
        (
            "edge advantage hand lead win",
            r"(?:gives|lends|hands) (r[12]) (?:the|an?) (?:\w+ )?(?:edge|advantage|upper hand|lead|win)",
            r"prefer \1",
        ),
        (
            "points point speaks speak tips tip",
            r"(?:points? to|speaks? for|tips?(?: the \w+)? (?:towards?|to|in favou?r of))",
            "prefer",
        ),
        ("more", r"(?:trust|like|value) (r[12]) (?:\w+ )?more", r"prefer \1"),
        ("quality", r"quality(?: of(?: the)? (r[12]))? is (?:\w+ )?higher", r"\1 is better"),
        ("change", "change my (?:choice|mind|answer|verdict|vote) to", "prefer"),
        ("lean leans leaning inclined", "(?:lean|leans|leaning|inclined) (?:towards?|to)(?: prefer)?", "prefer"),
        (
            "goes lies",
            "(?:vote|nod|edge|win|advantage|point|preference|verdict|it|this|one|comparison) (?:goes to|lies with)",
            "prefer",
        ),
        ("give award hand", "(?:give|award|hand) (?:it|this|the win|the edge) to", "prefer"),
        ("so therefore hence thus", r"(?:so|therefore|hence|thus) (r[12])(?= \.)", r"prefer \1"),
        ("opt vote", "(?:opt|vote) for", "prefer"),
        ("go going side stick", "(?:go|going|side|stick) with", "prefer"),
        (
            "answer choice verdict pick preference decision",
            "(?:choice|(?:answer|verdict|pick|preference|decision|vote)(?= (?:is|should be|must be) r[12])) "
            "(?:is|should be|must be)",
            "prefer",
        ),
        ("benefit", "benefit more from", "prefer"),
        (
            "it",
            r"(r[12]) it is|it (?:(?:is|has to be|must be|should be) )?(r[12])(?= [.,]| that| who| which)",
            r"prefer \1\2",
        ),
        (
            "errors mistakes inaccuracies hallucinations",
            "(?:more|several) (?:errors|mistakes|inaccuracies|hallucinations)",
            "less accurate",
        ),
        (
            "errors mistakes inaccuracies hallucinations",
            "(?:fewer|less|no) (?:errors|mistakes|inaccuracies|hallucinations)",
            "more accurate",
        ),
        ("off", "off (?:topic|target|the mark)", "irrelevant"),
        ("only", r"only (r[12])", r"alone \1"),
        (
            "i",
            "i (?:would )?(?:find|believe|think|feel|say)(?: that)?(?= r[12])",
            "overall",
        ),
    )
)  # fmt: skip
"""Words without one of which an expression cannot occur; the expression; what it means."""
_COMMON = _words("i it not one what but")
_BY_TRIGGER: dict[str, list[int]] = defaultdict(list)
for _index, _entry in enumerate(_EXPRESSIONS):
    for _trigger in _entry[0]:
        _BY_TRIGGER[_trigger].append(_index)


def telling(words: Set[str]) -> frozenset[str]:
    """Return `words` and the words of the expressions that are rewritten to one of them."""
    triggers = (triggers for triggers, _, meaning in _EXPRESSIONS if not frozenset(words).isdisjoint(meaning.split()))
    return frozenset(words).union(*triggers) - _COMMON | words


def usual_words(words: list[str]) -> list[str]:
    """Replace expressions in a sentence of words in lower case."""
    triggers = [word for word in words if word in _BY_TRIGGER]
    if not triggers:
        return words
    text = f" {' '.join(words)} "
    for index in sorted({index for trigger in triggers for index in _BY_TRIGGER[trigger]}):
        _, expression, meaning = _EXPRESSIONS[index]
        text = expression.sub(meaning, text)
    return text.split()
