"""Tasks without a picture: small talk, spelling, counting, copying, sums, remembering."""

from random import Random

from tools.box.dialogues import Dialogue, Tasks, Turn

TASKS = Tasks()

WORDS = (
    "cat", "dog", "fox", "hen", "owl", "bee", "ant", "cow", "pig", "bat", "sun", "moon", "star", "tree", "leaf",
    "rock", "lake", "hill", "road", "door", "lamp", "book", "cup", "fork", "hat", "shoe", "coat", "ball", "drum",
    "bell", "ship", "boat", "car", "train", "plane", "bird", "fish", "frog", "milk", "bread", "salt", "corn", "rice",
    "apple", "lemon", "river", "stone", "house", "table", "chair", "clock", "paper", "green", "light", "water",
)  # fmt: skip
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kim", "Leo", "Mia", "Nora", "Otto")


def _single(task: str, question: str, answer: str, reasoning: str) -> Dialogue:
    return Dialogue((Turn(task, question, answer, reasoning),))


@TASKS.add("spell", 0.5)
def spell(rng: Random) -> Dialogue:
    word = rng.choice(WORDS)
    form = rng.choice(["Spell {}.", "Spell the word {}.", "How do you spell {}?"])
    return _single("spell", form.format(word), f"{'-'.join(word)}.", f"The word is {word}.")


@TASKS.add("letters", 0.4)
def letters(rng: Random) -> Dialogue:
    word = rng.choice(WORDS)
    form = rng.choice(["How many letters has {}?", "How many letters are in {}?"])
    return _single("letters", form.format(word), f"{len(word)}.", f"The word is {'-'.join(word)}.")


@TASKS.add("count", 0.4)
def count(rng: Random) -> Dialogue:
    low = rng.randint(0, 12)
    high = low + rng.randint(2, 7)
    form = rng.choice(["Count from {} to {}.", "Please count from {} to {}."])
    numbers = ", ".join(str(number) for number in range(low, high + 1))
    return _single("count", form.format(low, high), f"{numbers}.", f"From {low} up to {high}.")


@TASKS.add("copy", 3.0)
def copy(rng: Random) -> Dialogue:
    items = " ".join(
        rng.choice(WORDS) if rng.random() < 0.7 else str(rng.randrange(10)) for _ in range(rng.randint(2, 6))
    )
    form = rng.choice(["Repeat: {}", "Repeat after me: {}", "Say this again: {}"])
    return _single("copy", form.format(items), items, "The text comes after the colon.")


@TASKS.add("add", 1.2)
def add(rng: Random) -> Dialogue:
    return Dialogue(tuple(_sum(rng) for _ in range(rng.choice([1, 2, 3]))))


def _sum(rng: Random) -> Turn:
    one, other = rng.randrange(10), rng.randrange(10)
    if rng.random() < 0.65:
        sign, result, how = "+", one + other, "an addition"
    else:
        one, other = max(one, other), min(one, other)
        sign, result, how = "-", one - other, "a subtraction"
    form = rng.choice(["What is {} {} {}?", "How much is {} {} {}?"])
    return Turn("add", form.format(one, sign, other), f"{result}.", f"{one} {sign} {other} is {how}.")


_TALK = (
    (
        ("Hello!", "Hi!", "Hello there!", "Good morning!"),
        "Hello! Show me a picture, or ask me something.",
        "A greeting.",
    ),
    (
        ("What are you?", "Who are you?", "Tell me about yourself."),
        "I am a very small Qwen3.5 that comes with mlx_qwen35. I know pictures of shapes and digits.",
        "The question is about me.",
    ),
    (
        ("What can you do?", "What can I ask you?", "Help me."),
        "Ask me about colors, shapes, places and digits in a picture, or to spell, count, add or repeat.",
        "The question is about what I can do.",
    ),
    (("Thank you!", "Thanks!", "Great, thanks."), "You are welcome!", "A thank-you."),
    (("Bye!", "Goodbye!", "See you later."), "Goodbye!", "A farewell."),
    (("How are you?", "How do you do?"), "I am fine, thank you. What shall we look at?", "Small talk."),
    (
        ("What colors do you know?", "Which colors do you know?"),
        "I know red, orange, yellow, green, blue, purple, pink and black.",
        "The question is about colors.",
    ),
    (
        ("Which shapes do you know?", "What shapes do you know?"),
        "I know circles, squares, triangles, stars, crosses and diamonds.",
        "The question is about shapes.",
    ),
)


@TASKS.add("talk", 0.8)
def talk(rng: Random) -> Dialogue:
    questions, answer, reasoning = rng.choice(_TALK)
    return _single("talk", rng.choice(questions), answer, reasoning)


@TASKS.add("remember", 0.7)
def remember(rng: Random) -> Dialogue:
    name = rng.choice(NAMES)
    first = Turn(
        "talk", rng.choice(["My name is {}.", "I am {}.", "Call me {}."]).format(name), f"Hello, {name}!", "A greeting."
    )
    last = Turn("remember", rng.choice(["What is my name?", "Who am I?"]), f"Your name is {name}.", f"It is {name}.")
    between = [] if rng.random() < 0.5 else list(rng.choice([add, spell, count, letters])(rng).turns)
    return Dialogue((first, *between, last))


def mixed(rng: Random) -> Dialogue:
    """Two or three unrelated questions in one conversation."""
    makers = [spell, letters, count, copy, add, talk]
    return Dialogue(tuple(turn for maker in rng.sample(makers, rng.choice([2, 3])) for turn in maker(rng).turns))


TASKS.add("mixed", 1.5)(mixed)
