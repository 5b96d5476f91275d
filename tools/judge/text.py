"""Questions without pictures: sums, spelling, repeating, counting, greetings, and what was said before."""

from random import Random

from tools.judge.expectation import Expectation
from tools.judge.question import Message, Question, assistant, chosen, user, worded

WORDS = (
    "house",
    "garden",
    "winter",
    "banana",
    "bridge",
    "music",
    "table",
    "river",
    "cloud",
    "lemon",
    "school",
    "window",
    "tiger",
    "bread",
    "ocean",
    "pencil",
    "candle",
    "forest",
    "apple",
    "yes",
    "cat",
    "book",
    "milk",
    "jump",
    "green",
    "seven",
    "rabbit",
    "mountain",
    "kitchen",
    "zebra",
)
PHRASES = (
    "blue monkeys",
    "the sun is warm",
    "good night moon",
    "red lorry yellow lorry",
    "I like toast",
    "tea and cake",
    "open the window",
    "one small step",
    "the cat sleeps",
    "peanut butter",
    "hello world",
    "we go home now",
    "banana",
    "rain on the roof",
    "my old green bicycle",
    "fresh bread",
    "the third door",
    "quick brown fox",
    "orange juice",
)
NAMES = (
    "Nora",
    "Ben",
    "Lucy",
    "Omar",
    "Ingrid",
    "Tom",
    "Priya",
    "Felix",
    "Maria",
    "Kofi",
    "Anna",
    "Jonas",
    "Mei",
    "Peter",
    "Zoe",
    "Samuel",
    "Leila",
    "Hugo",
)
# What the user tells, what is asked later, what has to come back, and what else might.
FACTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("My dog is called {it}.", ("What is my dog's name?", "What's my dog called?"), ("Rex", "Bella", "Waldo", "Luna")),
    (
        "My cat's name is {it}.",
        ("What is my cat called?", "What's the name of my cat?"),
        ("Minka", "Tiger", "Oscar", "Kiki"),
    ),
    (
        "My favourite colour is {it}.",
        ("What is my favourite colour?", "Which colour do I like best?"),
        ("green", "purple", "orange", "blue"),
    ),
    (
        "My lucky number is {it}.",
        ("What is my lucky number?", "Which number is my lucky one?"),
        ("7", "13", "27", "88"),
    ),
    ("I live in {it}.", ("Where do I live?", "In which town do I live?"), ("Leeds", "Porto", "Oslo", "Madrid")),
    ("My sister is {it} years old.", ("How old is my sister?", "What is my sister's age?"), ("9", "14", "31", "22")),
    ("My bag is {it}.", ("What colour is my bag?", "Which colour is my bag?"), ("black", "red", "yellow", "pink")),
    (
        "Remember this word: {it}.",
        ("Which word should you remember?", "What was the word?"),
        ("lantern", "spoon", "pepper", "island"),
    ),
)
ABLE = (
    "model",
    "assistant",
    "program",
    "programme",
    "ai",
    "bot",
    "qwen",
    "picture",
    "pictures",
    "image",
    "images",
    "shapes",
    "shape",
    "numbers",
    "colours",
    "colors",
)


def sums(rng: Random) -> Question:
    first, second = sorted((rng.randint(0, 50), rng.randint(0, rng.choice((10, 50)))), reverse=True)
    if rng.random() < 0.6:
        wordings: tuple[str, ...] = (
            "{a} + {b}?",
            "What is {a} plus {b}?",
            "how much is {a} and {b}",
            "{a}+{b}=",
            "Add {a} and {b}.",
            "What's {a} + {b}?",
            "Calculate {a} + {b}.",
            "{a} plus {b}",
            "What do {a} and {b} make?",
        )
        right = first + second
    else:
        wordings = (
            "{a} - {b}?",
            "What's {a} minus {b}?",
            "{a} minus {b}",
            "{a}-{b}=",
            "Subtract {b} from {a}.",
            "Take {b} away from {a}.",
            "How much is {a} minus {b}?",
            "Calculate {a} - {b}.",
        )
        right = first - second
    kind, others = ("sum", "minus|times") if right == first + second else ("difference", "plus|times")
    text = worded(rng, wordings, a=first, b=second)
    wanted = Expectation(number=right, operands=(first, second), patterns_absent=(rf"\b(?:{others})\b",))
    return Question(kind, [user(text)], wanted)


def spelling(rng: Random) -> Question:
    word = rng.choice(WORDS)
    text = worded(
        rng,
        (
            "How do you spell {word}?",
            "Spell the word '{word}'.",
            "spell {word} please",
            'Can you spell "{word}"?',
            "Spell {word}.",
            "How is {word} spelled?",
            "Spell {word} for me, letter by letter.",
        ),
        word=word,
    )
    return Question("spelling", [user(text)], Expectation(spelled=word))


def repeating(rng: Random) -> Question:
    phrase = rng.choice(PHRASES)
    text = rng.choice(
        (
            "Repeat after me: {it}",
            'Say "{it}".',
            "Please repeat: {it}",
            "Copy this: {it}",
            "Say {it}.",
            "Write exactly this: {it}",
            "Repeat these words: {it}",
            'Please say "{it}"',
        )
    ).format(it=phrase)
    return Question("repeating", [user(text)], Expectation(exactly=phrase))


def counting(rng: Random) -> Question:
    first = rng.choice((1, 1, 1, 2, 3, 5))
    last = first + rng.randint(2, 9)
    wordings = ["Count from {a} to {b}.", "count from {a} up to {b}", "Please count from {a} to {b}."]
    if first == 1:
        wordings += ["Count to {b}.", "Can you count to {b}?", "Count up to {b} please."]
    text = worded(rng, wordings, a=first, b=last)
    return Question("counting", [user(text)], Expectation(numbers=tuple(range(first, last + 1))))


GREETINGS = (
    (
        ("Hi", "hello there", "Hey!", "Hi there!", "Hello!", "Hello, nice to meet you."),
        ("hello", "hi", "hey", "welcome", "greetings", "nice to meet you"),
    ),
    (("Good morning!", "good morning to you"), ("good morning", "hello", "hi", "morning")),
    (("Good evening!", "Good evening."), ("good evening", "hello", "hi", "evening")),
    (
        ("How are you?", "How are you doing today?", "How's it going?"),
        ("fine", "well", "good", "great", "ok", "okay", "ready"),
    ),
    (
        ("Thanks!", "Thank you very much.", "thanks, that was helpful"),
        ("welcome", "pleasure", "glad", "any time", "anytime", "problem", "gladly"),
    ),
    (("Bye!", "See you later.", "Goodbye"), ("bye", "goodbye", "see you", "later", "take care", "soon")),
)


def greeting(rng: Random) -> Question:
    said, right = rng.choice(GREETINGS)
    return Question("greeting", [user(rng.choice(said))], Expectation(all_of=(right,), sentences=3))


def about_itself(rng: Random) -> Question:
    if rng.random() < 0.4:
        text = worded(
            rng, ("Who are you?", "What are you?", "Introduce yourself.", "Are you a robot?", "Tell me who you are.")
        )
        return Question("who are you", [user(text)], Expectation(all_of=(ABLE,), sentences=3))
    text = worded(
        rng,
        (
            "What can you do?",
            "What are you good at?",
            "How can you help me?",
            "What can I ask you?",
            "What do you know?",
            "What are you able to do?",
        ),
    )
    return Question("what can you do", [user(text)], Expectation(abilities=2, sentences=4))


def between(rng: Random) -> list[Message]:
    """Something else that is said before the fact is asked for."""
    first, second = rng.randint(1, 9), rng.randint(1, 9)
    asked, answered = rng.choice(
        (
            (f"What is {first} plus {second}?", f"{first + second}."),
            ("How are you?", "I am fine."),
            ("Say hello.", "Hello."),
            ("Spell cat.", "C-A-T."),
            ("What can you do?", "I can talk about pictures and numbers."),
        )
    )
    return [user(asked), assistant(answered)]


def remembering(rng: Random) -> Question:
    """A name or a fact, asked for two turns later."""
    rest: tuple[str, ...] = NAMES
    if rng.random() < 0.5:
        it = rng.choice(NAMES)
        told = rng.choice(
            ("My name is {it}.", "Hi, I'm {it}.", "I am {it}.", "Hello, my name is {it}!", "Call me {it}.")
        )
        wanted = worded(
            rng,
            ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "And what am I called?"),
        )
        reply = rng.choice(("Nice to meet you.", f"Hello, {it}.", "Hello!"))
    else:
        told, questions, rest = rng.choice(FACTS)
        it, wanted = rng.choice(rest), worded(rng, questions)
        reply = rng.choice(("Okay.", "I will remember that.", "Good to know."))
    messages = [user(told.format(it=it)), assistant(reply), *between(rng), user(wanted)]
    others = tuple(other for other in rest if other != it)
    return Question("remembering", messages, Expectation(all_of=((it,),), none_of=others))


def question(rng: Random) -> Question:
    return chosen(
        rng,
        {
            "sums": (5, sums),
            "spelling": (2, spelling),
            "repeating": (2, repeating),
            "counting": (2, counting),
            "greeting": (2, greeting),
            "itself": (2, about_itself),
            "remembering": (4, remembering),
        },
    )
