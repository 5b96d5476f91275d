"""What an answer's text is to be: free, any JSON object, or JSON that follows a schema."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from mlx_qwen35.server.wire import WireObject, agreed, invalid_request


class TextFormat(WireObject):
    """Free text."""

    type: Literal["text"]


class ObjectFormat(WireObject):
    """Any JSON object; one that follows a schema, where llama.cpp's server and others take one."""

    type: Literal["json_object"]
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")


class JsonSchema(WireObject):
    """A named JSON schema."""

    without_effect: ClassVar = frozenset({"strict", "description", "name"})

    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")


class SchemaFormat(WireObject):
    """JSON that follows a schema; where there is only its name, which OpenAI allows, any object.

    The schema stands beside the type in the documentation of llama.cpp's server, and in Anthropic's protocol.
    """

    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")

    @property
    def wanted(self) -> dict[str, JsonValue]:
        """The schema, from either place.

        Raises:
            ApiError: There is none in either, or there are two.
        """
        named = self.json_schema.schema_ if self.json_schema else None
        if self.json_schema is None and self.schema_ is None:
            raise invalid_request("response_format.json_schema: field required", "response_format.json_schema")
        return agreed("response_format.json_schema.schema", named, "response_format.schema", self.schema_) or {}


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


def schema_of(wanted: ResponseFormat | None) -> dict[str, JsonValue] | None:
    """The schema, {} for any object; None for free text.

    Raises:
        ApiError: See `SchemaFormat.wanted`.
    """
    if isinstance(wanted, SchemaFormat):
        return wanted.wanted
    return wanted.schema_ or {} if isinstance(wanted, ObjectFormat) else None
