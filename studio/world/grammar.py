"""The words of the world: four attributes, their synonyms, captions and the held-out split (pure Python)."""

from __future__ import annotations

import itertools
import random
import re
import zlib
from dataclasses import dataclass, fields
from functools import cache

SHAPES = ("fox", "rabbit", "elephant", "penguin", "turtle", "giraffe", "robot", "octopus")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
ACTIONS = ("runs", "jumps", "spins", "flies", "sleeps", "grows", "dances", "rolls")
PLACES = ("night", "sea", "desert", "forest", "snow", "room")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "action": ACTIONS, "place": PLACES}
SPLITS = ("train", "held_out", "all")

SHAPE_WORDS = {
    "fox": ("fox", "vixen", "fox cub", "foxling"),
    "rabbit": ("rabbit", "bunny", "hare", "bunny rabbit"),
    "elephant": ("elephant", "elephant calf", "jumbo", "tusker"),
    "penguin": ("penguin", "penguin chick", "emperor penguin", "king penguin"),
    "turtle": ("turtle", "tortoise", "terrapin", "baby turtle"),
    "giraffe": ("giraffe", "giraffe calf", "baby giraffe", "camelopard"),
    "robot": ("robot", "android", "droid", "toy robot"),
    "octopus": ("octopus", "baby octopus", "squid", "octopod"),
}
COLOUR_WORDS = {
    "red": ("red", "scarlet", "crimson", "ruby", "cherry red"),
    "orange": ("orange", "tangerine", "amber", "pumpkin orange"),
    "yellow": ("yellow", "lemon", "golden", "canary yellow"),
    "green": ("green", "emerald", "lime", "jade"),
    "blue": ("blue", "azure", "sapphire", "cobalt"),
    "purple": ("purple", "violet", "plum", "lavender"),
    "pink": ("pink", "rosy", "magenta", "bubblegum pink"),
    "white": ("white", "ivory", "milky", "pearly"),
}
# Third person and -ing form of each phrasing.
ACTION_WORDS = {
    "runs": (
        ("runs", "running"),
        ("dashes", "dashing"),
        ("sprints", "sprinting"),
        ("races", "racing"),
        ("gallops", "galloping"),
    ),
    "jumps": (
        ("jumps", "jumping"),
        ("hops", "hopping"),
        ("leaps", "leaping"),
        ("bounces", "bouncing"),
        ("jumps up and down", "jumping up and down"),
    ),
    "spins": (
        ("spins", "spinning"),
        ("twirls", "twirling"),
        ("whirls", "whirling"),
        ("turns in circles", "turning in circles"),
    ),
    "flies": (
        ("flies", "flying"),
        ("soars", "soaring"),
        ("hovers", "hovering"),
        ("flaps its wings", "flapping its wings"),
    ),
    "sleeps": (
        ("sleeps", "sleeping"),
        ("naps", "napping"),
        ("dozes", "dozing"),
        ("snoozes", "snoozing"),
        ("slumbers", "slumbering"),
    ),
    "grows": (
        ("grows", "growing"),
        ("swells", "swelling"),
        ("gets bigger and smaller", "getting bigger and smaller"),
        ("inflates", "inflating"),
        ("grows and shrinks", "growing and shrinking"),
    ),
    "dances": (
        ("dances", "dancing"),
        ("sways", "swaying"),
        ("wiggles", "wiggling"),
        ("boogies", "boogieing"),
        ("grooves", "grooving"),
    ),
    "rolls": (
        ("rolls", "rolling"),
        ("tumbles", "tumbling"),
        ("somersaults", "somersaulting"),
        ("rolls over and over", "rolling over and over"),
    ),
}
PLACE_WORDS = {
    "night": ("at night", "in the moonlight", "under the stars", "on a starry night", "under the moon", "after dark"),
    "sea": ("on the sea", "at sea", "on the ocean", "on the waves", "on a raft", "out on the water"),
    "desert": ("in the desert", "on the dunes", "among the cacti", "on the hot sand", "in the sandy desert"),
    "forest": ("in the forest", "in the woods", "among the trees", "in the green forest", "in the woodland"),
    "snow": ("in the snow", "in the snowy field", "on a snowy hill", "on a winter day", "among the snowflakes"),
    "room": ("in the room", "indoors", "at home", "in the living room", "inside the house", "in a cosy room"),
}
# A colour word inside a place phrase would make the caption ambiguous.
PLACE_WORDS["forest"] = tuple(p.replace("green", "deep") for p in PLACE_WORDS["forest"])

_EXTRA_KEYS = {  # Base forms and plain words that people type, beyond those that captions hold.
    "action": {
        "run": "runs",
        "dash": "runs",
        "sprint": "runs",
        "race": "runs",
        "gallop": "runs",
        "jump": "jumps",
        "hop": "jumps",
        "leap": "jumps",
        "bounce": "jumps",
        "spin": "spins",
        "twirl": "spins",
        "turn": "spins",
        "fly": "flies",
        "soar": "flies",
        "hover": "flies",
        "sleep": "sleeps",
        "asleep": "sleeps",
        "nap": "sleeps",
        "doze": "sleeps",
        "grow": "grows",
        "shrinks": "grows",
        "shrinking": "grows",
        "swell": "grows",
        "dance": "dances",
        "sway": "dances",
        "wiggle": "dances",
        "roll": "rolls",
        "tumble": "rolls",
        "somersault": "rolls",
    },
    "place": {
        "nighttime": "night",
        "stars": "night",
        "beach": "sea",
        "sand": "desert",
        "cactus": "desert",
        "wood": "forest",
        "snowing": "snow",
        "snowfield": "snow",
        "winter": "snow",
        "house": "room",
    },
}
_KEYS = {
    "shape": {
        k: (
            k,
            *(w for p in v for w in p.split() if w not in ("baby", "calf", "cub", "chick", "toy", "king", "emperor")),
        )
        for k, v in SHAPE_WORDS.items()
    },
    "colour": {k: (*(w for p in v for w in p.split()), k) for k, v in COLOUR_WORDS.items()},
    "action": {k: tuple(f.split()[0] for pair in v for f in pair) for k, v in ACTION_WORDS.items()},
    "place": {
        "night": ("night", "moonlight", "moon", "starry", "dark"),
        "sea": ("sea", "ocean", "waves", "raft", "water"),
        "desert": ("desert", "dunes", "cacti", "sandy"),
        "forest": ("forest", "woods", "trees", "woodland"),
        "snow": ("snow", "snowy", "snowflakes"),
        "room": ("room", "indoors", "home", "house", "inside"),
    },
}
_AMBIGUOUS_VERBS = ("gets", "getting")
_SIZES = ("", "", "", "little", "small", "cute", "happy")
_TEMPLATES = (
    "{a} {verb} {place}",
    "{a} {verb} {place}",
    "{a} is {ing} {place}",
    "{place}, {a} {verb}",
    "{place}, {a} is {ing}",
    "{place} there is {a} {ing}",
    "{a} {place} {verb}",
    "{a}, {ing} {place}",
    "{ing} {place}: {a}",
    "we see {a} that {verb} {place}",
    "{a_plain} {verb} {place}, it is {colour}",
    "here {verb} {a}, {place}",
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene named by its four attributes.

    Args:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        action: one of `ACTIONS`.
        place: one of `PLACES`.

    Raises:
        ValueError: an attribute holds a name that the world does not know.
    """

    shape: str
    colour: str
    action: str
    place: str

    def __post_init__(self) -> None:
        for field in fields(self):
            index_of(field.name, getattr(self, field.name))


def index_of(attribute: str, name: str) -> int:
    """Position of a canonical name in its attribute's tuple.

    Args:
        attribute: a key of `ATTRIBUTES`.
        name: canonical name.

    Returns:
        The index, from 0.

    Raises:
        ValueError: the attribute or the name is unknown.
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"`attribute` must be one of {', '.join(ATTRIBUTES)}, got {attribute!r}; use one of these")
    names = ATTRIBUTES[attribute]
    if name not in names:
        raise ValueError(f"`{attribute}` must be one of {', '.join(names)}, got {name!r}; use one of these")
    return names.index(name)


def canonical_caption(scene: Scene) -> str:
    """The plain caption of a scene, with canonical words only.

    Args:
        scene: the scene.

    Returns:
        For example "a red fox runs in the snow".
    """
    return f"{_article(scene.colour)} {scene.shape} {scene.action} {PLACE_WORDS[scene.place][0]}"


def caption(scene: Scene, rng: random.Random) -> str:
    """A free English caption of a scene, with synonyms and varied word order.

    Args:
        scene: the scene.
        rng: source of the choices; the same state gives the same caption.

    Returns:
        Lower-case text that names all four attributes.
    """
    noun = rng.choice(SHAPE_WORDS[scene.shape])
    colour = rng.choice(COLOUR_WORDS[scene.colour])
    verb, ing = rng.choice(ACTION_WORDS[scene.action])
    place = rng.choice(PLACE_WORDS[scene.place])
    size = rng.choice(_SIZES)
    the = rng.random() < 0.3
    words = f"{size} {colour} {noun}".strip()
    plain = f"{size} {noun}".strip()
    return rng.choice(_TEMPLATES).format(
        a=f"the {words}" if the else _article(words),
        a_plain=f"the {plain}" if the else _article(plain),
        verb=verb,
        ing=ing,
        place=place,
        colour=colour,
    )


@cache
def vocabulary() -> tuple[str, ...]:
    """Every lower-case word that any caption can hold, sorted.

    Returns:
        The words, without punctuation.
    """
    texts = [p for table in (SHAPE_WORDS, COLOUR_WORDS, PLACE_WORDS) for ps in table.values() for p in ps]
    texts += [form for pairs in ACTION_WORDS.values() for pair in pairs for form in pair]
    texts += [re.sub(r"\{\w+\}", " ", t) for t in _TEMPLATES]
    return tuple(sorted({w for t in (*texts, *_SIZES, "a an the") for w in words_of(t)}))


def words_of(text: str) -> list[str]:
    """The lower-case words of a text, without punctuation.

    Args:
        text: any text.

    Returns:
        The words in order.
    """
    return re.findall(r"[a-z]+", text.lower())


def parse(text: str) -> dict[str, str | None]:
    """Read the attributes out of a text, as far as its words are known.

    Args:
        text: any text.

    Returns:
        Attribute to canonical name, or None where no known word names it; the first word that does wins.
    """
    found: dict[str, str | None] = dict.fromkeys(ATTRIBUTES)
    for word in words_of(text):
        for attribute, name in _keywords().get(word, ()):
            found[attribute] = found[attribute] or name
    return found


def held_out(scene: Scene) -> bool:
    """Whether this combination of attributes is kept out of training (about one in ten).

    Args:
        scene: the scene.

    Returns:
        True if training never shows the combination; a fixed property of the four names.
    """
    return zlib.crc32(f"{scene.shape}/{scene.colour}/{scene.action}/{scene.place}".encode()) % 10 == 0


def all_scenes(split: str = "all") -> tuple[Scene, ...]:
    """Every scene of a split, in a fixed order.

    Args:
        split: "train", "held_out" or "all".

    Returns:
        The scenes.

    Raises:
        ValueError: `split` is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}; use one of these")
    return _scenes(split)


def sample_scene(rng: random.Random, split: str = "train") -> Scene:
    """Draw one scene of a split, uniformly.

    Args:
        rng: source of the choice.
        split: "train", "held_out" or "all".

    Returns:
        The scene.

    Raises:
        ValueError: `split` is unknown.
    """
    return rng.choice(all_scenes(split))


@cache
def _scenes(split: str) -> tuple[Scene, ...]:
    every = (Scene(shape=s, colour=c, action=a, place=p) for s, c, a, p in itertools.product(*ATTRIBUTES.values()))
    return tuple(s for s in every if split == "all" or held_out(s) == (split == "held_out"))


@cache
def _keywords() -> dict[str, tuple[tuple[str, str], ...]]:
    table: dict[str, set[tuple[str, str]]] = {}
    for attribute, concepts in _KEYS.items():
        for name, keys in concepts.items():
            for key in keys:
                table.setdefault(key, set()).add((attribute, name))
    for attribute, keys in _EXTRA_KEYS.items():
        for key, name in keys.items():
            table.setdefault(key, set()).add((attribute, name))
    return {key: tuple(sorted(names)) for key, names in table.items()}


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
