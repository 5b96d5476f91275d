"""What the functions of real programs take: paths, commands, searches, places, dates, sums, notes."""

from random import Random

from tools.box.about_values import file_name, sentence, title
from tools.box.functions import CITIES, NOUNS, VERBS
from tools.box.lexicon import NAMES, PLACES, WORDS, word

LANGUAGES = ("French", "German", "Spanish", "Italian", "Latin", "Dutch", "Greek", "Polish", "Welsh", "Danish")
ROOMS = ("kitchen", "bedroom", "hall", "office", "garage", "bathroom", "living room", "dining room", "attic", "porch")
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "SEK", "CAD", "AUD", "INR", "NOK")
DOORS = ("front door", "back door", "garage door", "gate", "cellar door", "car", "safe", "windows")
_ROOTS = ("", "", "", "./", "src/", "docs/", "/tmp/", "/etc/", "/var/log/", "~/", "data/", "tests/")
_BARE_FILES = (
    "README.md",
    "README.md",
    "src/app.py",
    "notes/todo.txt",
    "package.json",
    "CHANGELOG.md",
    "TODO",
    "README",
    "Makefile",
    "LICENSE",
    "/etc/passwd",
    "/etc/fstab",
    ".gitignore",
    "Dockerfile",
    ".env",
)
_KINDS_OF = ("best", "cheap", "good", "new", "old", "small", "nearby", "famous", "open", "free")
_COMMANDS = (
    "git {verb}", "git log -{n}", "git checkout {word}", "ls -{letters}", "ls {folder}", "cat {file}", "python {file}",
    "python3 -m {word}", "npm run {word}", "npm install {word}", "pip install {word}", "mkdir {word}", "pwd", "df -h",
    "echo {word}", "grep -r {word} {folder}", "make {word}", "make", "cargo build", "docker ps", "rm {file}", "whoami",
    "head -{n} {file}", "wc -l {file}", "curl {url}", "ps aux", "uname -a", "pytest {file}", "cp {file} {folder}",
    "npm test", "npm start", "npm run build", "make test", "make clean", "cargo test", "go test ./...", "pytest -q",
    "git commit -m {word}", "python -m pytest {file}", "ruff check .", "yarn {word}", "npx {word}", "{name}",
)  # fmt: skip
_OPERATORS = ("+", "-", "*", "/", "*", "/", "**", "%")


def city(rng: Random) -> str:
    """One of those that everybody knows, or of those that nobody does."""
    name = rng.choice(CITIES) if rng.random() < 0.6 else word(rng).capitalize()
    # Who types in a hurry writes none of it large; a call gives it as it stands.
    name = name.lower() if rng.random() < 0.15 else name
    return f"{rng.choice(['New', 'Port', 'San', 'Saint'])} {name}" if rng.random() < 0.05 else name


def path(rng: Random) -> str:
    """'src/plan.py', '/etc/fstab', 'PLAN.md', 'notes/todo.txt'."""
    chance = rng.random()
    if chance < 0.15:
        return rng.choice(_BARE_FILES)
    name = file_name(rng)
    if chance < 0.25:
        stem, ending = name.rsplit(".", 1)
        name = rng.choice([f"{stem.upper()}.{ending}", f"{stem.upper()}.md", f"{camel(rng)}.{ending}"])
    return (f"{word(rng)}/" if chance > 0.85 else rng.choice(_ROOTS)) + name


def camel(rng: Random) -> str:
    """'LampRiver'."""
    return word(rng).capitalize() + word(rng).capitalize()


def identifier(rng: Random) -> str:
    """A name in code: 'parse_args', 'getLamp', 'MAX_SIZE', 'lamp'."""
    verb = rng.choice(["parse", "get", "set", "load", "save", "is", "make", "read", "find", "run", "init", "to"])
    noun = rng.choice(["args", word(rng), word(rng), word(rng), "name", "file", "config"])
    return rng.choice([f"{verb}_{noun}", f"{verb}_{noun}", verb + noun.capitalize(), f"{verb}_{noun}_{word(rng)}",
                       f"{noun}_{word(rng)}".upper(), noun.upper(), "TODO", "FIXME", camel(rng), noun, noun,
                       f"{noun}.{verb}", f"{verb}_{noun}()"])  # fmt: skip


def folder(rng: Random) -> str:
    """'src', '/home/anna/lamps', '.'."""
    if rng.random() < 0.2:
        return rng.choice([".", "src", "/tmp", "/var/log", "~", "/home", "docs", "/etc"])
    start = rng.choice(["", "", "/", "~/", "./", f"/home/{rng.choice(NAMES).lower()}/"])
    return start + "/".join(word(rng) for _ in range(rng.choice([1, 1, 2])))


def url(rng: Random) -> str:
    """'https://lamp.org/news'."""
    address = f"{word(rng)}.{rng.choice(['com', 'org', 'net', 'io', 'de'])}"
    start = rng.choice(["https://", "https://", "http://", "https://www.", ""])
    return f"{start}{address}{rng.choice(['', '', '/' + word(rng), f'/{word(rng)}/{rng.randint(1, 99)}'])}"


def query(rng: Random) -> str:
    """What somebody may look for on the web."""
    noun, other = rng.choice(NOUNS), word(rng)
    return rng.choice([
        word(rng), f"{noun} {other}", f"{rng.choice(_KINDS_OF)} {noun}s in {city(rng)}", f"{noun} in {city(rng)}",
        f"how to {rng.choice(list(VERBS)).replace('_', ' ')} a {noun}", f"{rng.choice(NAMES)} {title(rng)}",
        f"what is a {other}", f"{rng.choice(_KINDS_OF)} {other} for {word(rng)}", f"{other} {rng.randint(2, 2030)}",
        sentence(rng), f"{other} near {city(rng)}", f"history of the {other}", f"{other} and {word(rng)}",
    ])  # fmt: skip


def command(rng: Random) -> str:
    """For a shell."""
    form = rng.choice(_COMMANDS)
    letters = "".join(rng.sample("lahtrR", rng.randint(1, 3)))
    verb = rng.choice(["status", "diff", "log", "push", "pull", "commit", "branch", "fetch", "stash", "blame"])
    return form.format(
        verb=verb, n=rng.randint(1, 50), word=word(rng), letters=letters, folder=folder(rng), file=path(rng),
        url=url(rng), name=identifier(rng),
    )  # fmt: skip


def expression(rng: Random) -> str:
    """'12 * 7', '(4 + 5) / 3', '2.5*4'."""
    most = rng.choice([20, 100, 2000])

    def number() -> str:
        if rng.random() < 0.12:
            return f"{rng.randrange(20)}.{rng.randint(1, 9)}"
        return str(rng.randint(1, most))

    space = "" if rng.random() < 0.25 else " "
    text = f"{number()}{space}{rng.choice(_OPERATORS)}{space}{number()}"
    if rng.random() < 0.2:
        text = f"({text}){space}{rng.choice('+-*/')}{space}{number()}"
    elif rng.random() < 0.2:
        text += f"{space}{rng.choice('+-*/')}{space}{number()}"
    return text


def note(rng: Random) -> str:
    """What is to be kept in mind: 'the keys are upstairs', 'bring bread and milk'."""
    if rng.random() < 0.7:
        return sentence(rng)
    return rng.choice([f"the {word(rng)} is {rng.choice(PLACES)}",
                       f"{rng.choice(NAMES)}'s {word(rng)} is on {day(rng)}",
                       f"{rng.choice(['call', 'pay', 'water', 'meet', 'ask'])} {rng.choice(NAMES)}",
                       f"the code is {rng.randint(10, 9999)}"])  # fmt: skip


def say(rng: Random) -> str:
    """A few words of one language."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 1, 2, 3, 4])))


def subject(rng: Random) -> str:
    """What a mail or a meeting is about."""
    return say(rng).capitalize()


def day(rng: Random) -> str:
    """'Friday', 'tomorrow', '2027-03-09', '3 May'."""
    weekdays = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return rng.choice([
        rng.choice(weekdays), rng.choice(weekdays), "today", "tomorrow", "tonight",
        f"20{rng.randint(24, 30)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
        f"{rng.randint(1, 28)} {rng.choice(['January', 'April', 'May', 'June', 'August', 'October'])}",
        f"next {rng.choice(weekdays)}",
    ])  # fmt: skip


def clock(rng: Random) -> str:
    """'06:45', '5 pm', 'noon'."""
    minutes, half = f"{5 * rng.randrange(12):02}", rng.choice(["am", "pm"])
    return rng.choice([
        f"{rng.randint(0, 23):02}:{minutes}", f"{rng.randint(0, 23)}:{minutes}", f"{rng.randint(1, 12)} {half}",
        f"{rng.randint(1, 12)}{half}", rng.choice(["noon", "midnight"]),
    ])  # fmt: skip


def person(rng: Random) -> str:
    """A first name, at times with another one."""
    name = rng.choice(NAMES) if rng.random() < 0.8 else word(rng).capitalize()
    return f"{name} {word(rng).capitalize()}" if rng.random() < 0.25 else name


def address(rng: Random) -> str:
    """'anna.lamp@river.org'."""
    name = rng.choice(NAMES).lower()
    name = rng.choice([name, name, f"{name}.{word(rng)}", rng.choice(["info", "team", "office", "sales"])])
    return f"{name}@{word(rng)}.{rng.choice(['com', 'org', 'net', 'co.uk', 'io'])}"


def ticker(rng: Random) -> str:
    """'TSLA', 'QRM'."""
    if rng.random() < 0.3:
        return rng.choice(["AAPL", "TSLA", "IBM", "MSFT", "SAP", "NVDA", "GE", "KO", "AMZN"])
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice([3, 4, 4])))


def number(rng: Random) -> int:
    """Of one to three digits, mostly small."""
    return rng.randint(1, rng.choice([9, 60, 100, 100, 900]))
