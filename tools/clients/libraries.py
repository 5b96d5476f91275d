"""The lines that connect each library, as docs/clients.md has them, with URL and KEY in place of a server's."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """A library and a script that prints an answer.

    Args:
        package: Whose version counts.
        script: With URL (without a path) and KEY.
        language: "python", "node" or "sh".
    """

    package: str
    script: str
    language: str = "python"

    def filled(self, url: str, key: str) -> str:
        """The script for a server."""
        return re.sub(r"\bKEY\b", key, re.sub(r"\bURL\b", url, self.script))


LIBRARIES = {
    "curl": Library(
        "curl",
        """curl --fail-with-body -s URL/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}'
""",
        "sh",
    ),
    "openai-python, chat": Library(
        "openai",
        """from openai import OpenAI
client = OpenAI(base_url="URL/v1", api_key="KEY")
answer = client.chat.completions.create(model="any", max_tokens=16, messages=[{"role": "user", "content": "Hi"}])
print(answer.choices[0].message)
""",
    ),
    "openai-python, responses": Library(
        "openai",
        """from openai import OpenAI
client = OpenAI(base_url="URL/v1", api_key="KEY")
first = client.responses.create(model="any", max_output_tokens=16, input="Hi")
print(client.responses.create(model="any", max_output_tokens=16, input="And?", previous_response_id=first.id).output)
""",
    ),
    "anthropic-python": Library(
        "anthropic",
        """from anthropic import Anthropic
client = Anthropic(base_url="URL", api_key="KEY")
with client.messages.stream(model="any", max_tokens=16, messages=[{"role": "user", "content": "Hi"}]) as stream:
    print(stream.get_final_message().content)
""",
    ),
    "LangChain, OpenAI": Library(
        "langchain-openai",
        """from langchain_openai import ChatOpenAI
model = ChatOpenAI(base_url="URL/v1", api_key="KEY", model="any", max_tokens=16)
print(model.invoke([("system", "Be brief."), ("system", "Be kind."), ("user", "Hi")]))
""",
    ),
    "LangChain, Anthropic": Library(
        "langchain-anthropic",
        """from langchain_anthropic import ChatAnthropic
model = ChatAnthropic(base_url="URL", api_key="KEY", model="any", max_tokens=16)
print(model.invoke("Hi"))
""",
    ),
    "pydantic-ai": Library(
        "pydantic-ai-slim",
        """from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
model = OpenAIChatModel("any", provider=OpenAIProvider(base_url="URL/v1", api_key="KEY"))
agent = Agent(model, system_prompt="Be brief.", instructions="Be kind.", model_settings={"max_tokens": 16})
print(agent.run_sync("Hi").output)
""",
    ),
    "LlamaIndex": Library(
        "llama-index-llms-openai-like",
        """from llama_index.llms.openai_like import OpenAILike
model = OpenAILike(api_base="URL/v1", api_key="KEY", model="any", is_chat_model=True, max_tokens=16)
print(model.complete("Hi"))
""",
    ),
    "AI SDK, OpenAI-compatible": Library(
        "ai",
        """import { generateText } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
const provider = createOpenAICompatible({ name: "mlx-qwen35", baseURL: "URL/v1", apiKey: "KEY" });
console.log((await generateText({ model: provider("any"), prompt: "Hi", maxOutputTokens: 16 })).finishReason);
""",
        "node",
    ),
    "AI SDK, OpenAI": Library(
        "ai",
        """import { generateText } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
const provider = createOpenAI({ baseURL: "URL/v1", apiKey: "KEY" });
// Since version 7 system messages may stand there only where that is said.
const allowed = { allowSystemInMessages: true };
const messages = [{ role: "system", content: "Be brief." }, { role: "system", content: "Be kind." },
  { role: "user", content: "Hi" }];
console.log((await generateText({ model: provider("any"), messages, maxOutputTokens: 16, ...allowed })).finishReason);
""",
        "node",
    ),
    "AI SDK, Anthropic": Library(
        "ai",
        """import { generateText } from "ai";
import { createAnthropic } from "@ai-sdk/anthropic";
const provider = createAnthropic({ baseURL: "URL/v1", apiKey: "KEY" });
console.log((await generateText({ model: provider("any"), prompt: "Hi", maxOutputTokens: 16 })).finishReason);
""",
        "node",
    ),
}
