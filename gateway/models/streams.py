"""One stream of a model's answer on its way from the provider's API into the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final, Protocol

from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamUnavailable
from gateway.models import chat_stream, messages_stream, responses_stream
from gateway.models.errors import error_event
from gateway.models.neutral import CallPiece, End, Event, Refused, Said, Talk, Thought, Tokens
from gateway.models.services import service_in
from gateway.models.sse import DONE
from gateway.types import EMPTY


class Decoder(Protocol):
    """A provider's events as neutral ones, and what it counted so far."""

    tokens: Tokens

    def feed(self, event: JsonObject, /) -> list[Event]: ...

    def end(self) -> list[Event]: ...


class Encoder(Protocol):
    """Neutral events as a caller's."""

    def feed(self, event: Event) -> Iterator[JsonObject]: ...


_DECODERS: Final[Mapping[Talk, Callable[[], Decoder]]] = {
    "chat.completions": chat_stream.Decoder,
    "messages": messages_stream.Decoder,
    "responses": responses_stream.Decoder,
}
_LAST: Final = ("message_stop", *responses_stream.LAST)
_CUT: Final = "the model's provider ended its answer before it was whole"


def encoder(api: Talk, params: Mapping[str, object] = EMPTY) -> Encoder:
    """What writes events for a caller who asked with these parameters."""
    match api:
        case "chat.completions":
            return chat_stream.Encoder(include_usage=chat_stream.wants_usage(params))
        case "messages":
            return messages_stream.Encoder()
        case "responses":
            return responses_stream.Encoder(params)


class ModelStream:
    """Feed it the data of the provider's events; it gives the caller's, as JSON on one line each.

    Where both speak the same API, events go through as they are, but for the usage that only we asked for; with
    `strict` they are read and written anew even then. Raises what the provider says went wrong: then, or when the
    connection is lost, `broken` has the caller's last events.
    """

    def __init__(
        self, provider: Talk, caller: Talk, params: Mapping[str, object] = EMPTY, *, strict: bool = False
    ) -> None:
        self._caller = caller
        self._decoder = _DECODERS[provider]()
        self._encoder = None if provider == caller and not strict else encoder(caller, params)
        self._usage_wanted = chat_stream.wants_usage(params) or caller != "chat.completions"
        self._number = 0
        self._whole = False
        self.over = False
        """Whether nothing more is to come, whether or not the connection was closed."""
        self.service: dict[str, str] = {}
        """What the provider says of the service that it gives; see `service_of`."""
        self.written = 0
        """Characters that the model has written: what is charged for where nothing was counted."""

    @property
    def tokens(self) -> Tokens:
        """What the provider counted so far; all zero before it has said so."""
        return self._decoder.tokens

    def feed(self, data: bytes) -> list[bytes]:
        """The caller's events for one of the provider's."""
        self.over = self.over or data.strip() == DONE
        if self.over:
            return []
        try:
            event = codec.loads(data)
        except ValueError:
            raise UpstreamProtocolError("the provider sent an event that is not JSON") from None
        if not isinstance(event, dict):
            raise UpstreamProtocolError("the provider sent an event that is not an object")
        self.service.update(service_in(event))
        if self._encoder is None:
            return self._passed(event, data)
        return self._written(self._decoder.feed(event))

    def finish(self) -> list[bytes]:
        """The caller's last events, once the provider's stream has ended. Raises where it was cut."""
        last = self._written(self._decoder.end())
        if not self._whole and not (self._encoder is None and self.over):
            raise UpstreamUnavailable(_CUT)
        self.over = True
        return last

    def broken(self, error: InterlockError) -> list[bytes]:
        """The events that end a stream which has begun and cannot go on."""
        if isinstance(self._encoder, responses_stream.Encoder):
            return [codec.dumps(event) for event in self._encoder.failed(error.code, str(error))]
        return [codec.dumps(error_event(self._caller, error, self._number))]

    def _passed(self, event: JsonObject, data: bytes) -> list[bytes]:
        self._observe(event)
        number = event.get("sequence_number")
        self._number = number + 1 if isinstance(number, int) else self._number
        if event.get("choices") == [] and not self._usage_wanted and event.get("usage") is not None:
            return []
        return [data if b"\n" not in data and b"\r" not in data else codec.dumps(event)]

    def _observe(self, event: JsonObject) -> None:
        """Read along for counts, errors and the end. What is new in the caller's own API is no concern of ours."""
        with suppress(UpstreamProtocolError):
            self._count(self._decoder.feed(event))
        if event.get("type") in _LAST:
            self._whole = self.over = True

    def _written(self, events: Iterable[Event]) -> list[bytes]:
        events = list(events)
        self._count(events)
        writer = self._encoder
        if writer is None:
            return []
        return [codec.dumps(out) for event in events for out in writer.feed(event)]

    def _count(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Said(text) | Refused(text) | Thought(text) | CallPiece(text):
                    self.written += len(text)
                case End():
                    self._whole = self.over = True
