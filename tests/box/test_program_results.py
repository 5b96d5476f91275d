"""What programs return: in many forms, with everything that an answer needs."""

import json
from random import Random

from tools.box.program_results import failed, returned

MANY = range(200)


def test_an_object_holds_its_fields_and_what_the_function_was_given() -> None:
    texts = [returned({"price": 9.5, "unit": "EUR"}, {"item": "lamp"}, Random(number)) for number in MANY]
    objects = [json.loads(text) for text in texts if text.startswith("{")]
    assert all(found["price"] == 9.5 and found["unit"] == "EUR" for found in objects)
    assert 20 < sum(found.get("item") == "lamp" for found in objects) < 150
    assert len({tuple(found) for found in objects}) > 10
    lines = [text for text in texts if not text.startswith("{")]
    assert lines
    assert all("price: 9.5" in text.splitlines() for text in lines)


def test_a_list_comes_as_lines_as_json_or_in_one_line() -> None:
    texts = {returned(["src/app.py", "README.md"], {}, Random(number)) for number in MANY}
    assert {"src/app.py\nREADME.md", "src/app.py, README.md", '["src/app.py", "README.md"]'} <= texts
    assert all("README.md" in text and "src/app.py" in text for text in texts)
    assert {"[]", "none"} <= {returned([], {}, Random(number)) for number in MANY}


def test_words_come_alone_or_in_an_object() -> None:
    texts = {returned("10:15", {"city": "Oslo"}, Random(number)) for number in MANY}
    assert {"10:15", '{"result": "10:15"}'} <= texts
    assert all("10:15" in text for text in texts)
    assert {"ok", '{"status": "ok"}'} <= {returned("ok", {}, Random(number)) for number in MANY}


def test_an_error_stands_in_what_a_failed_call_returns() -> None:
    for number in MANY:
        text, error = failed(Random(number))
        assert error in text
        assert "{" not in error
    assert len({failed(Random(number))[1] for number in MANY}) > 30
