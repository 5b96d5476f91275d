"""Programs of the house: lights, heating, locks, sound, timers, devices."""

from random import Random

from tools.box import program_values as values
from tools.box.about_values import title
from tools.box.programs import DONE, P, Program, Slot, choice, count, fields, of

_ROOM = Slot(("room", "location", "area", "zone", "where"), of(*values.ROOMS),
             ("Which room", "Room name", "The room, e.g. {e}"))  # fmt: skip
_COLOURS = ("red", "green", "blue", "warm white", "white", "purple", "orange", "yellow")
_DEVICES = ("oven", "fridge", "dishwasher", "washing machine", "dryer", "robot", "vacuum", "camera", "printer",
            "heater", "coffee machine", "TV", "router", "sprinkler")  # fmt: skip
_PERCENT = "[%| percent]"


def _level(names: tuple[str, ...], about: str, tails: tuple[str, ...] = ()) -> Slot:
    return count(names, 100, about, "", tails=tails)


def _battery(rng: Random) -> str:
    return f"{rng.randint(1, 100)}%"


HOME_PROGRAMS = (
    Program("light", ("set_light", "control_light", "light_control", "setLight", "switch_light", "light", "lamp"),
            ("Turn a light on or off, or dim it.", "Controls the lamps in a room", "Switch lights",
             "Switch the light in a room."),
            {"room": _ROOM, "state": choice(("state", "action", "power", "mode"), "on", "off", about="on or off"),
             "percent": _level(("brightness", "level", "percent"), "Brightness in percent",
                               ("at {}%", "at {} percent", "brightness {}", "{}%")),
             "colour": choice(("color", "colour"), *_COLOURS, about="Colour of the light",
                              tails=("in {}", "colour {}", "color {}"))},
            (P + "[turn|switch] {state} the {room} light[s|].", P + "turn the {room} light[s|] {state}.",
             P + "[turn|switch] {state} the [light|lamp] in the {room}.", "{room} light[s|] {state}.",
             P + f"dim the {{room}} [light |]to {{percent}}{_PERCENT}.", "light {state} in the {room}, please.",
             "set the {room} light[s|] to {percent} percent.", "lights {state} in the {room}.",
             f"{{room}} light[s|] {{state}}[,| at|, brightness] {{percent}}{_PERCENT}.", "{room} {state}",
             "[turn|switch] {state} the {room} light[s|] at {percent} percent.", "{room} light[s|] {percent}%",
             "make the {room} light[s|] {colour}."),
            DONE, "Done.",
            again=("[the |]same for the {room}.", "and the {room}[ too|].", "[the |]same in the {room}.",
                   "now the {room}.", "also in the {room}.", "now {state} again.", "{percent}% please.",
                   "make it {percent} percent.", "the {room} too.")),
    Program("light", ("switch_device", "power", "toggle", "set_power", "lights_on_off"),
            ("Switch a light on or off.", "Turns the light in a room on or off", "Power of a lamp"),
            {"room": _ROOM, "on": Slot(("on", "enabled", "is_on", "power"), of(True, False),
                                       ("true for on, false for off", "Whether it is on"), kind="boolean")},
            ("turn {on} the light in the {room}.", "switch the light in the {room} {on}.", P + "turn {on} the {room} "
             "light.", "switch {on} the lamp in the {room}.", "lights {on} in the {room}.", "{room} light {on}"),
            DONE, "Done.",
            again=("same for the {room}.", "and the {room}.", "now {on} again.", "the {room} too.")),
    Program("light", ("set_brightness", "dim", "brightness", "adjust_brightness", "screen_brightness"),
            ("Set the brightness in percent.", "Changes how bright it is", "Dim all lights"),
            {"percent": _level(("percent", "level", "value", "brightness"), "In percent")},
            (P + "set the brightness to {percent} percent.", "dim the lights to {percent}%.", "brightness {percent}.",
             "make the brightness {percent} percent.", "dim to {percent}", P + "make it {percent}% bright."),
            DONE, "The brightness is {percent} percent.",
            again=("make it {percent}.", "now {percent}.", "a bit more, {percent}.", "no, {percent} percent.")),
    Program("heating", ("set_temperature", "set_thermostat", "heating_control", "setThermostat", "heating",
                        "thermostat"),
            ("Set the temperature of a room.", "Controls the heating", "Changes the thermostat",
             "Set the temperature in a room."),
            {"room": _ROOM, "degrees": Slot(("temperature", "degrees", "value"), lambda rng: rng.randint(5, 30),
                                            ("In degrees", "The temperature"), kind="number")},
            (P + "[set|heat] the {room} to {degrees}[ degrees|].", "make it {degrees} degrees in the {room}.",
             "the {room} should be {degrees} degrees.", P + "set the temperature to {degrees} in the {room}.",
             "{room} {degrees} degrees", "heating {room} {degrees}"),
            DONE, "The {room} is set to {degrees} degrees.",
            again=("same for the {room}.", "and the {room}.", "make it {degrees}.", "and the {room} to {degrees}.",
                   "now the {room} too.")),
    Program("lock", ("lock_door", "door_lock", "lockDoor", "lock", "lock_up"),
            ("Lock a door.", "Locks a door of the house", "Shuts the smart lock"),
            {"door": Slot(("door", "which", "target", "lock"), of(*values.DOORS),
                          ("Which door", "The door, e.g. {e}"))},
            (P + "lock the {door}.", "is the {door} locked? if not, lock it.", "make sure the {door} is locked.",
             P + "close the {door}.", "lock {door}"),
            DONE, "Done.",
            again=("and the {door}.", "same for the {door}.", "the {door} too.", "now the {door}.")),
    Program("volume", ("set_volume", "volume", "change_volume", "setVolume", "loudness"),
            ("Set the volume of the speaker.", "Changes how loud it is", "Volume in percent", "Set the volume."),
            {"level": _level(("level", "volume", "percent", "value"), "From 0 to 100"),
             "room": Slot(_ROOM.names, of(*values.ROOMS), ("Where the speaker is",), tails=("in the {}",))},
            (P + "set the volume to {level}[%| percent|].", "volume {level}.", P + "turn it [up|down] to {level}.",
             "turn the volume to {level}.", "make it {level} loud.", "volume to {level}"),
            DONE, "The volume is {level}.",
            again=("make it {level}.", "now {level}.", "a bit [more|less], {level}.", "no, {level}.")),
    Program("music", ("play_music", "play_song", "playMusic", "music_play", "spotify_play", "play", "music",
                      "start_song"),
            ("Play music.", "Plays a song or an artist", "Start playing a track", "Play a song."),
            {"song": Slot(("song", "track", "title", "song_name"), title, ("Title of the song", "What to play")),
             "artist": Slot(("artist", "band", "by"), values.person, ("Who plays", "Artist, e.g. {e}"))},
            (P + "play {song} by {artist}.", P + "play something by {artist}.", P + "play the song {song}.",
             "put on some {artist}.", 'i want to hear "{song}".', P + "play '{song}'[ by {artist}|]."),
            of("playing", "ok"), "It is playing.",
            again=("now '{song}'.", "and then '{song}'.", "next, something by {artist}.")),
    Program("timer", ("set_timer", "start_timer", "timer", "startTimer", "new_timer"),
            ("Start a countdown timer.", "Sets a timer for some minutes", "Timer in minutes", "Start a timer."),
            {"minutes": count(("minutes", "duration", "length", "time"), 120, "How many minutes", "In minutes"),
             "label": Slot(("label", "name", "title"), of("pasta", "tea", "eggs", "laundry", "bread", "nap", "run"),
                           ("What it is for", "Name of the timer"), tails=("called {}", "label {}", "for the {}"))},
            (P + "set a timer for {minutes} minutes.", "timer, {minutes} minutes.", "{minutes} minute timer.",
             P + "start a {minutes} minute timer.", "tell me when {minutes} minutes are over.",
             "timer {minutes} [mins|min|minutes]", "{minutes} [mins|min] timer", "{minutes} minute {label} timer",
             "start a timer of {minutes} minutes.", "wake me in {minutes} minutes.", "{minutes} min for the {label}"),
            fields(id=lambda rng: f"t{rng.randint(1, 99)}", state=of("running", "started", "active")),
            "The timer runs for {minutes} minutes.",
            again=("[and |]another [one |]for {minutes}[ minutes|].", "make it {minutes}.", "and {minutes} minutes.",
                   "one more, {minutes} min.")),
    Program("timers", ("get_timer", "timer_status", "list_timers", "timerState"),
            ("How long the timer still runs.", "State of the timer", "Get the running timer"),
            {"label": Slot(("label", "name", "timer"), of("pasta", "tea", "eggs", "laundry", "bread", "nap", "run"),
                           ("Which timer",), tails=("for the {}",))},
            ("how long is left on the [timer|{label} timer]", "how much time is left", "timer status", "what about my "
             "{label} timer", "time left", "how long will the {label} timer run", "check my timer."),
            fields(remaining=lambda rng: f"{rng.randint(1, 90)} {rng.choice(['minutes', 'seconds', 'min'])}",
                   state=of("running", "paused", "finished", "stopped")),
            "There are {remaining} left.",
            {"It is {state}.": ("is the timer [still |]running", "is the {label} timer [paused|running|done]",
                                "what is the state of the [timer|{label} timer]")},
            again=("and the {label} one", "what about the {label} timer")),
    Program("device", ("get_device_status", "device_state", "check_device", "getStatus"),
            ("Get the state of a device.", "State, battery and place of a device", "Checks a device of the house"),
            {"device": Slot(("device", "name", "device_id", "which"), of(*_DEVICES), ("Which device", "e.g. {e}"))},
            ("what is the [state|status] of the {device}", "{device} status", "how is the {device} doing",
             "is the {device} [on|off|running|ready]", P + "check the {device}.", "status of the {device}"),
            fields(state=of("on", "off", "ready", "running", "offline", "paused", "busy"), battery=_battery,
                   room=of(*values.ROOMS)),
            "The {device} is {state}.",
            {"The battery of the {device} is at {battery}.": (
                "how full is the battery of the {device}", "{device} battery", "battery of the {device}"),
             "The {device} is in the {room}.": ("where is the {device}", "which room is the {device} in")},
            again=("and the {device}", "what about the {device}", "same for the {device}.")),
)  # fmt: skip
