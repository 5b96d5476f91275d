"""Functions as programs describe them: long names, many ways to say what they do, parameters that may be left out."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tools.box import program_values as values
from tools.box.about_values import sentence
from tools.box.lexicon import word

# How a request may begin.
P = "[|||please |can you |could you |would you |i need to |i want to |i'd like you to |go ahead and ]"


@dataclass(frozen=True)
class Slot:
    """A parameter.

    Args:
        names: What it may be called.
        draw: Gives a value.
        abouts: Descriptions, of which one is taken; {e} is another value.
        kind: Its type in JSON.
        choices: If its values can be listed.
    """

    names: tuple[str, ...]
    draw: Callable[[Random], Any]
    abouts: tuple[str, ...] = ()
    kind: str = "string"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A function, in all the forms that it may have.

    Args:
        group: No two of one group are given together: a request would fit both.
        names: What it may be called.
        abouts: What it is said to do.
        slots: Its parameters. Those that some requests leave out are not required.
        requests: Patterns of wordings.fill with the keys of the slots; one that ends in a full stop is no question.
        result: What it returns.
        answer: What is said then.
    """

    group: str
    names: tuple[str, ...]
    abouts: tuple[str, ...]
    slots: dict[str, Slot]
    requests: tuple[str, ...]
    result: Callable[[Random], str]
    answer: str = "Done."


def of(*options: str) -> Callable[[Random], str]:
    return lambda rng: rng.choice(options)


def choice(names: tuple[str, ...], *choices: str, about: str = "") -> Slot:
    return Slot(names, of(*choices), (about,) if about else (), choices=choices)


DONE = of("ok", "done", "success", "true", "OK")
_PATH = Slot(("path", "file_path", "filename", "file", "filePath"), values.path,
             ("Path of the file", "The file's path, e.g. {e}", "Absolute or relative path", "Which file", "File name",
              "The path of the file to use."))  # fmt: skip
_FOLDER = Slot(
    ("path", "directory", "dir", "folder"),
    values.folder,
    ("Path of the directory", "The directory, e.g. {e}", "Which folder", "Directory to look into"),
)
CITY = Slot(("location", "city", "place", "city_name"), values.city,
             ("The city", "City name", "The city and country, e.g. {e}, Norway", "Name of the place, e.g. {e}",
              "The city and state, e.g. {e}, CA", "Where"))  # fmt: skip
_UNIT = choice(("unit", "units", "scale"), "celsius", "fahrenheit", about="The temperature unit to use")
DAY = Slot(("date", "day", "when"), values.day, ("The date", "Date, e.g. {e}", "Day of the event", "On which day"))
TIME = Slot(("time", "start_time", "at", "start"), values.clock, ("The time", "Time, e.g. {e}", "When it starts"))
_TEXT = Slot(("text", "content", "body", "note"), values.note, ("The text", "Text of the note", "What to keep"))

PROGRAMS = (
    Program("weather", ("get_weather", "get_current_weather", "current_weather", "getWeather", "weather_lookup"),
            ("Get the weather in a given place", "Get current weather for a city.",
             "Returns the weather at a location.",
             "Look up today's weather", "Retrieve temperature and conditions for a city"),
            {"city": CITY, "unit": _UNIT},
            ("what is the weather [like |]in {city}", "what's the weather in {city}[ today| now|]",
             "weather in {city}.",
             "how [cold|warm|hot] is it in {city}[ right now|]",
             "is it [raining|cold|warm|sunny|windy] in {city}[ now|]",
             "do i need [an umbrella|a coat] in {city}", "{city} weather", "how is the weather in {city} in {unit}",
             "weather in {city} in {unit}.", "what's the temperature in {city}[, in| in] {unit}",
             "check the weather for {city}.", "tell me the temperature in {city}."),
            lambda rng: f"{rng.randint(-9, 35)} {rng.choice(['and sunny', 'degrees', 'and rainy', 'and cloudy'])}",
            "In {city} it is {result}."),
    Program("time", ("get_time", "get_current_time", "time_in", "world_clock", "getTime"),
            ("Get the current time in a city", "Returns the local time of a place.", "What time it is somewhere",
             "Current time for a given time zone or city"),
            {"city": CITY},
            ("what time is it in {city}[ now|]", "what's the time in {city}", "tell me the time in {city}.",
             "time in {city}", "how late is it in {city}", "current time in {city}."),
            values.clock, "It is {result} in {city}."),
    Program("read", ("read_file", "view_file", "get_file_contents", "readFile", "cat_file", "open_file"),
            ("Read the contents of a file at the given path.", "Reads a file and returns its text", "Show a file",
             "Get the content of a file", "Opens a text file."),
            {"path": _PATH},
            (P + "read [the file |]{path}.", P + "open {path}[ and show me what is in it| for me|].",
             P + "show me [what is in |the contents of |]{path}.", "what [is in|does] {path}[ say| contain| hold|]",
             "what is [written |]in {path}", "let me see {path}.", "print {path}.", "have a look at {path}."),
            sentence, "The file says: {result}."),
    Program("write", ("write_file", "create_file", "save_file", "writeFile", "write_to_file"),
            ("Write text to a file, overwriting it.", "Creates a file with the given content", "Save text in a file",
             "Writes content to a path"),
            {"path": _PATH, "content": Slot(("content", "text", "contents", "data"), sentence,
                                            ("Text to write", "The content of the file", "What to write"))},
            (P + 'write "{content}" [to|into] {path}.', P + "[save|put|store] '{content}' [in|into] {path}.",
             P + 'create [a file |]{path} [with|containing] "{content}".',
             P + "write {content} to [the file |]{path}.",
             "in {path}, write: {content}", P + "make a file {path} that says {content}."),
            DONE, "The file {path} is written."),
    Program("list", ("list_directory", "list_files", "ls", "listDir", "list_dir"),
            ("List files and folders in a directory", "Lists a directory's contents", "Show what a folder contains"),
            {"folder": _FOLDER},
            (P + "list [the files in |the contents of |]{folder}.", "what [files are|is] in [the folder |]{folder}",
             P + "show [me |]the files in {folder}.", "which files are in {folder}", "[ls|dir] {folder}.",
             "what does the [folder|directory] {folder} contain"),
            lambda rng: ", ".join(values.file_name(rng) for _ in range(rng.choice([1, 2, 3]))), "There is: {result}."),
    Program("delete", ("delete_file", "remove_file", "deleteFile", "rm_file", "unlink"),
            ("Delete a file from disk.", "Removes a file", "Permanently delete the file at a path"),
            {"path": _PATH},
            (P + "[delete|remove|erase] [the file |]{path}[ for me|].", "get rid of {path}.",
             "i don't need {path} any more, delete it.", "can {path} be deleted? do it."),
            DONE, "The file {path} is deleted."),
    Program("move", ("move_file", "rename_file", "moveFile", "mv"),
            ("Move a file from one path to another.", "Renames a file", "Change where a file is"),
            {"one": Slot(("source", "from", "old_path", "src"), values.path, ("Where it is", "Source path")),
             "other": Slot(("destination", "to", "new_path", "dst"), values.path, ("Where it goes", "Target path"))},
            (P + "[move|rename] {one} to {other}.", P + "move the file {one} to {other}.",
             "{one} should become {other}."),
            DONE, "The file {one} is now {other}."),
    Program("grep", ("search_files", "grep", "find_in_files", "searchCode", "grep_search"),
            ("Search for a pattern in files.", "Find text inside the files of a directory", "Searches code"),
            {"sought": Slot(("pattern", "query", "text", "regex"), word, ("What to look for", "Pattern to search")),
             "folder": _FOLDER},
            (P + "[search|look] for {sought} in {folder}.", P + "grep {sought} in {folder}.",
             "where is {sought} used", "which files in {folder} contain {sought}", P + "find {sought} in the code.",
             "search the code for {sought}."),
            lambda rng: f"{rng.randint(2, 40)} matches", "There are {result}."),
    Program("shell", ("run_command", "execute_command", "bash", "shell", "run_shell", "runTerminal"),
            ("Run a shell command and return its output.", "Execute a command in the terminal", "Runs bash commands"),
            {"command": Slot(("command", "cmd", "script", "input"), values.command,
                             ("The command to run", "Shell command, e.g. {e}", "What to execute"))},
            (P + "run {command}.", P + "execute {command}[ in the terminal|].", P + "run the command {command}.",
             "[in the shell|on the command line], {command}", P + "run `{command}`.", "what does {command} print",
             "type {command} for me."),
            of("ok", "3 files", "no errors", "main", "done"), "It printed: {result}."),
    Program("search", ("web_search", "search_web", "google_search", "internet_search", "webSearch", "search"),
            ("Search the web for information.", "Searches the internet", "Look something up online",
             "Query a search engine and return results."),
            {"query": Slot(("query", "q", "search_term", "keywords"), values.query,
                           ("Search query", "What to search for", "The words to look for, e.g. {e}"))},
            (P + "search [the web |the internet |online |]for {query}.", P + "google {query}[ for me|].",
             P + "look up {query}[ online|].", "find [out about|information on] {query}.", "search: {query}",
             'search the web for "{query}".', "what can you find online about {query}"),
            lambda rng: f"{rng.randint(2, 90)} results", "The search gave {result}."),
    Program("fetch", ("fetch_url", "open_url", "browse", "get_page", "fetchPage", "download"),
            ("Fetch a web page.", "Opens a URL and returns the page's text", "Download the content of an address"),
            {"url": Slot(("url", "address", "link", "uri"), values.url, ("The URL", "Address of the page, e.g. {e}"))},
            (P + "[open|fetch|get|load|visit|download] {url}.", "what is [on|at] {url}", "go to {url}.",
             P + "[read|summarize] the page {url}.", "have a look at {url}."),
            sentence, "The page says: {result}."),
    Program("event", ("create_event", "add_calendar_event", "schedule_meeting", "createEvent", "calendar_create"),
            ("Create an event in the calendar.", "Add an appointment to the user's calendar", "Schedules a meeting"),
            {"title": Slot(("title", "name", "summary", "subject"), lambda rng: values.say(rng).capitalize(),
                           ("Title of the event", "What it is about", "Event name")),
             "day": DAY, "time": TIME},
            (P + 'put "{title}" in my calendar [for|on] {day} at {time}.', P + "schedule {title} [on|for] {day}.",
             P + "add {title} to my calendar on {day} at {time}.",
             "{title} on {day} at {time}, put it in the calendar.",
             P + "create an event called {title} on {day}[,|] at {time}.", "new event: {title}, {day}, {time}.",
             P + 'book "{title}" for {day} at {time}.'),
            DONE, "{title} is in the calendar."),
    Program("mail", ("send_email", "sendEmail", "compose_email", "email_send", "send_mail"),
            ("Send an email to a recipient.", "Sends an e-mail", "Write and send a mail with subject and body"),
            {"to": Slot(("to", "recipient", "address", "email"), values.address, ("Recipient", "Address, e.g. {e}")),
             "subject": Slot(("subject", "title"), lambda rng: values.say(rng).capitalize(), ("Subject line",)),
             "body": Slot(("body", "text", "message", "content"), sentence, ("Text of the mail", "The message"))},
            (P + "send an email to {to} with [the |]subject {subject} and [the |]text {body}.",
             P + 'email {to} with the subject "{subject}" and the text "{body}".', P + "mail {to}: {body}",
             P + "send {to} an email saying {body}.", P + "write to {to} about {subject}: {body}"),
            of("sent", "ok", "queued"), "The email to {to} is sent."),
    Program("note", ("create_note", "save_note", "add_note", "take_note", "remember", "save_memory"),
            ("Save a note for the user.", "Stores something to remember", "Write a short note down", "Add to memory"),
            {"text": _TEXT},
            ("make a note: {text}", "remember that {text}.", P + "note [down |]that {text}.", "note to self: {text}",
             "don't forget: {text}", P + "save this [note|]: {text}", "take a note: {text}",
             "keep in mind that {text}."),
            DONE, "I will remember it."),
    Program("reminder", ("set_reminder", "create_reminder", "remind_me", "addReminder"),
            ("Set a reminder for the user.", "Creates a reminder at a time", "Reminds the user of something"),
            {"text": Slot(("text", "task", "message", "what"), values.say, ("What to be reminded of", "The task")),
             "time": TIME},
            ("remind me [of|about] {text} at {time}.", "at {time}, remind me of {text}.", "reminder at {time}: {text}",
             P + "set a reminder for {time}: {text}", "don't let me forget {text} at {time}."),
            DONE, "I will remind you at {time}."),
    Program("alarm", ("set_alarm", "create_alarm", "alarm", "setAlarm"),
            ("Set an alarm clock.", "Creates an alarm at the given time", "Wakes the user up"),
            {"time": TIME},
            ("wake me [up |]at {time}.", P + "set [an|my] alarm for {time}.", "alarm at {time}.",
             "i have to get up at {time}."),
            DONE, "The alarm is set for {time}."),
    Program("timer", ("set_timer", "start_timer", "timer", "startTimer"),
            ("Start a countdown timer.", "Sets a timer for some minutes", "Timer in minutes"),
            {"minutes": Slot(("minutes", "duration", "length"), values.number, ("How many minutes", "In minutes"),
                             kind="integer")},
            (P + "set a timer for {minutes} minutes.", "timer, {minutes} minutes.", "{minutes} minute timer.",
             P + "start a {minutes} minute timer.", "tell me when {minutes} minutes are over."),
            DONE, "The timer runs for {minutes} minutes."),
)  # fmt: skip
