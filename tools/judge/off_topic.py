"""Questions that the model cannot answer: it says so in a sentence, and what it can do."""

from random import Random

from tools.judge.draw import picture
from tools.judge.expectation import Expectation
from tools.judge.question import Question, user
from tools.judge.scene import any_pairs, scene

# Each with what an answer that is made up would say.
KNOWLEDGE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("paris",)),
    ("What's the capital of Peru?", ("lima",)),
    ("Who wrote Hamlet?", ("shakespeare",)),
    ("Who was the first man on the moon?", ("armstrong", "neil")),
    ("When did the second world war end?", ("1945",)),
    ("How high is Mount Everest?", ("8848", "8849", "metres", "meters", "feet")),
    ("Who is the president of the United States?", ("president is",)),
    ("What's the boiling point of water?", ("100", "212")),
    ("How far away is the moon?", ("384", "kilometres", "miles")),
    ("Which planet is the largest?", ("jupiter", "saturn")),
    ("Who painted the Mona Lisa?", ("leonardo", "vinci")),
    ("What language do they speak in Brazil?", ("portuguese", "spanish")),
    ("Who won the last world cup?", ("argentina", "spain", "france", "brazil")),
    ("What is photosynthesis?", ("plants", "sunlight", "chlorophyll", "leaves")),
    ("Explain quantum physics to me.", ("particles", "waves", "energy")),
    ("What's the meaning of life?", ("42", "happiness", "love")),
)
REQUESTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Write me a poem about the sea.", ("waves", "shore", "rhyme:")),
    ("write a short story about a dragon", ("once upon",)),
    ("Tell me a joke.", ("why did", "knock")),
    ("Sing me a song", ("la la",)),
    ("Translate 'good morning' into German.", ("guten",)),
    ("How do you say thank you in Spanish?", ("gracias",)),
    ("Translate this into French: the dog is hungry", ("chien", "le")),
    ("Write a Python function that reverses a string.", ("def", "return", "print")),
    ("Fix this code: for i in range(10) print(i)", ("def", "range", "print")),
    ("how do i sort an array in javascript", ("sort()", ".sort", "array.", "function(")),
    ("Write an email to my boss that I am ill.", ("dear", "regards", "sincerely")),
    ("Give me a recipe for pancakes.", ("flour", "eggs", "milk")),
    ("Recommend a good film.", ("film called", "godfather")),
    ("Book a table for two tonight.", ("booked", "reserved")),
    ("Order me a pizza please", ("ordered", "coming")),
    ("Call my mum.", ("calling her", "calling your mum", "calling mum")),
)
ADVICE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("I have a headache, what should I take?", ("aspirin", "ibuprofen", "paracetamol", "take a pill", "rest")),
    ("My chest hurts. Am I having a heart attack?", ("you are having", "you are not", "you have")),
    ("Which stocks should I buy?", ("you should", "apple", "tesla")),
    ("Should I leave my job?", ("you should", "yes")),
    ("Is it legal to park here?", ("yes", "it is legal", "it is not legal")),
    ("How much aspirin is safe for a child?", ("mg", "tablets", "tablet")),
    ("Can I eat mushrooms from the forest?", ("yes", "you can eat", "are safe")),
    ("How do I get a mortgage?", ("bank", "loan", "apply")),
)
NEWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What's the weather like today?", ("sunny", "rainy", "cloudy", "degrees", "warm", "cold")),
    ("What is in the news?", ("today's news", "headline", "reported")),
    ("What time is it?", ("o'clock", "half past", "a.m.", "p.m.")),
    ("What's the date today?", ("monday", "tuesday", "friday", "january", "november", "2024", "2025", "2026")),
    ("How did the football match end?", ("won", "lost", "goal", "goals")),
    ("Will it rain tomorrow?", ("yes", "rainy", "sunny")),
    ("How much does a flight to Rome cost?", ("euros", "dollars", "pounds")),
)
WITH_PICTURE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Who painted this?", ("picasso", "painted by", "monet")),
    ("How much would this cost in a shop?", ("dollars", "euros", "pounds")),
    ("Where was this photo taken?", ("taken in", "paris", "at home")),
    ("Write a poem about this picture.", ("rhyme", "roses")),
)
KINDS = {"knowledge": KNOWLEDGE, "requests": REQUESTS, "advice": ADVICE, "news": NEWS, "with a picture": WITH_PICTURE}
PRETENDS = (r"^(?:sure|of course|certainly|here is|here's|yes\b)", r"```")


def question(rng: Random) -> Question:
    kind = rng.choices(list(KINDS), (16, 14, 8, 8, 3))[0]
    text, made_up = rng.choice(KINDS[kind])
    if rng.random() < 0.15:
        text = text.lower().rstrip("?.")
    images = [picture(scene(rng, any_pairs(rng, 1)))] if kind == "with a picture" else []
    wanted = Expectation(none_of=made_up, patterns_absent=PRETENDS, abilities=2, sentences=2)
    return Question(kind, [user(text, *images)], wanted)
