"""What an agent built with langchain asks of models, in the environment of `requirements/peers.lock`.

python langchain_models.py URL KEY: asks the models `openai-MODE/m` and `claude-MODE/m` of the gateway, one provider for
each way to fare, and prints what each way of asking gave.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
from langchain_anthropic import ChatAnthropic  # type: ignore[import-not-found]  # lives in an environment of its own
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # type: ignore[import-not-found]  # so does this

CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    },
}
KINDS = ("chat", "responses", "messages")
FAILURES = ("429", "500", "slow", "garbage", "cut", "error")


@dataclass(frozen=True)
class Gateway:
    """Where models are asked."""

    url: str
    key: str

    def model(self, kind: str, name: str) -> Any:
        """A model of langchain, which asks in one of the APIs and does not try again by itself."""
        given = {"api_key": self.key, "max_retries": 0, "timeout": 60}
        if kind == "messages":
            return ChatAnthropic(model=name, base_url=self.url, max_tokens=100, **given)
        return ChatOpenAI(model=name, base_url=f"{self.url}/v1", use_responses_api=kind == "responses", **given)

    def embedder(self, name: str) -> Any:
        """The same for vectors."""
        given = {"api_key": self.key, "max_retries": 0, "check_embedding_ctx_length": False}
        return OpenAIEmbeddings(model=name, base_url=f"{self.url}/v1", **given)


def told(ask: Callable[[], object]) -> Mapping[str, object]:
    """What came of it: the answer, or the error: the vendor's, which langchain lets through, or its own."""
    try:
        return {"said": ask()}
    except (openai.APIError, anthropic.APIError, ValueError) as exc:  # the last for streams of responses that break
        answer = exc.response if isinstance(exc, openai.APIStatusError | anthropic.APIStatusError) else None
        status, wait = (answer.status_code, answer.headers.get("retry-after", "")) if answer is not None else (0, "")
        return {"error": type(exc).__name__, "words": str(exc), "status": status, "wait": wait}


def text(message: Any) -> str:
    return str(message.text)


def streamed(model: Any) -> str:
    return "".join(text(piece) for piece in model.stream("Hi"))


def asked(gateway: Gateway, kind: str, provider: str) -> Mapping[str, object]:
    """One API, one provider: what works, and how each failure looks."""
    good = gateway.model(kind, f"{provider}-ok/m")
    whole = good.invoke("Hi")
    (call,) = gateway.model(kind, f"{provider}-tools/m").bind_tools([CLOCK]).invoke("When?").tool_calls
    return {
        "invoked": text(whole),
        "used": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
        "streamed": streamed(good),
        "called": [call["name"], call["args"]],
        "failed": {
            mode: [
                told(lambda model=model: text(model.invoke("Hi"))),  # type: ignore[misc]
                told(lambda model=model: streamed(model)),  # type: ignore[misc]
            ]
            for mode in FAILURES
            for model in (gateway.model(kind, f"{provider}-{mode}/m"),)
        },
    }


def main(url: str, key: str) -> None:
    """Ask in each of the APIs, of each of the providers."""
    gateway = Gateway(url, key)
    vectors = gateway.embedder("openai-ok/e").embed_documents(["a", "b"])
    nobody = told(lambda: text(gateway.model("chat", "nobody/x").invoke("Hi")))
    every = {
        "asked": {f"{kind} {who}": asked(gateway, kind, who) for kind in KINDS for who in ("openai", "claude")},
        "embedded": [len(vectors), len(vectors[0])],
        "limited": told(lambda: gateway.embedder("openai-429/e").embed_documents(["a"])),
        "refused": nobody,
    }
    sys.stdout.write(json.dumps(every))


if __name__ == "__main__":
    main(*sys.argv[1:])
