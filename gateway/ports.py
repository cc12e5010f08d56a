"""What the spine needs from the outside, as protocols. A port that cannot answer raises; nothing else is a no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from gateway.errors import InterlockError
from gateway.tickets import Approval
from gateway.types import Authorized, Call, Credentials, Era, Identity, NeedsApproval, Reason, Resource, Result

Sink: TypeAlias = Callable[[bytes], Awaitable[None]]
Entrypoint: TypeAlias = Literal["decision", "visible"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The value of a policy entry point, undecoded: `authz` judges whether it is one we understand."""

    value: object
    revision: str = ""
    engine: str = ""
    cached: bool = False


class PolicyDecisionPoint(Protocol):
    """Evaluates `data.interlock.<entrypoint>` for one question.

    Raises `PolicyEngineUnavailable` (with its reserved reason) when it cannot. An undefined entry point is
    `reason="undefined"`.
    """

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Decided:
    """One question that policy was asked, and its answer: exactly as they were, to be decided again later.

    `answer` is `None` where the engine gave none; `fault` then says why (reserved code, colon, words).
    """

    decision_id: str
    entrypoint: Entrypoint
    question: Mapping[str, object]
    answer: Answer | None
    fault: str = ""
    took_ns: int = 0


class DecisionTap(Protocol):
    """Is told of every decision, on the path of the call: it neither waits nor raises."""

    def decided(self, decided: Decided) -> None: ...


@dataclass(frozen=True, slots=True)
class Spotted:
    """Something that a detector found: from `start` to `end` of the text, by what it looks like (`github_token`)."""

    start: int
    end: int
    detector: str


class Detector(Protocol):
    """Finds in texts what rules may want to know of or take out: secrets, say.

    It keeps no state, works in any thread, and takes no longer than the text is long; it calls nobody.
    """

    @property
    def kind(self) -> str:
        """What rules call it: `secret`, `personal_data`."""

    def find(self, text: str, name: str = "") -> Sequence[Spotted]:
        """What is in a text, in any order. `name` is the member of an object that holds it, or empty."""


class Gate(Protocol):
    """Where held calls wait for people."""

    async def admit(self, call: Call, identity: Identity, needs: NeedsApproval) -> Approval:
        """What people agreed to for exactly this call, not used up yet.

        Raises `ApprovalPending` with its ticket while they have not, and `PolicyDenied` when they said no.
        """

    async def spend(self, approval: Approval) -> None:
        """Use it up, before the call is carried out. Raises `ApprovalPending` when another call was faster."""

    async def give_back(self, approval: Approval) -> None:
        """The call is not done: its upstream asked for input, and the next round is to pass as well."""


class Switches(Protocol):
    """Kill switches, as the path of a call sees them."""

    def refusal(self, call: Call, identity: Identity) -> Reason | None:
        """Why no such call is carried out now; `None` while no switch is set for it."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What became of a call that something was reserved for."""

    started: bool = False
    """Somebody began to carry it out."""
    streamed: bool = False
    """Something of its answer came, even if nobody was given it."""
    result: Result | None = None
    error: BaseException | None = None


class Spending(Protocol):
    """What one call in flight may spend."""

    @property
    def warnings(self) -> Sequence[Mapping[str, object]]:
        """Budgets that are near their limits, for the record."""

    def timed(self) -> AbstractContextManager[object]:
        """Ends the block (by cancellation) when the seconds of a budget are used up. Entered once."""

    def out_of_time(self) -> InterlockError | None:
        """The refusal of a call that was ended so; `None` for any other."""


class Budgets(Protocol):
    """What calls may spend, as their path sees it."""

    async def reserve(self, authorized: Authorized) -> Spending | None:
        """Set aside what the call may need; `None` where neither its permit nor a call that caused it has a budget.

        Raises `QuotaExceeded` where there is too little.
        """

    async def settle(self, spending: Spending, spent: Spent) -> Mapping[str, object]:
        """Charge what it came to, and give the rest back. Gives what the record says of it."""


class Identifier(Protocol):
    """Turns credentials into an identity. Raises `Unauthenticated`; never returns a guess."""

    async def identify(self, credentials: Credentials) -> Identity: ...


class Client(Protocol):
    """What is known of the client at the other end of one call."""

    @property
    def owner(self) -> str:
        """Key of the client: its session (legacy) or its principal (modern). Nothing of one owner reaches another."""

    @property
    def era(self) -> Era: ...

    @property
    def capabilities(self) -> Mapping[str, object]:
        """What the client declared (`ClientCapabilities`)."""

    @property
    def log_level(self) -> str:
        """The least severe log message that the client wants for this call; empty for none."""

    @property
    def wants_progress(self) -> bool:
        """Whether the client asked for progress notifications on this call."""

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Send a notification that belongs to this call (progress, log message)."""


class Exchange(Client, Protocol):
    """The downstream side of one call: how to reach the client that made it, and no other."""

    async def ask(self, call: Call) -> Result:
        """Put a question (`elicitation/create`, `sampling/createMessage`, `roots/list`) to the client.

        A client without a back-channel gives a `Result` whose outcome is `input_required`: the question is to travel
        in the answer, and the reply comes with the next round (MCP 2026-07-28, patterns/mrtr). Raises `InvalidCall`
        when the client did not declare the capability.
        """

    async def emit(self, event: bytes) -> None:
        """Send one event of a streamed answer (JSON), in order, with backpressure.

        Raises `UpstreamProtocolError` where the answer to the call is not a stream.
        """


class Relay(Client, Protocol):
    """The same, as an upstream sees it: whatever a call causes becomes a call of its own and passes policy first."""

    async def ask(self, method: str, params: Mapping[str, object]) -> Result:
        """Put a question to the client."""

    async def emit(self, event: bytes) -> None:
        """Send one event of a streamed answer, once policy has seen it as it sees results.

        Raises `PolicyDenied` when policy withholds it, which ends the stream.
        """

    async def act(  # what a call is made of
        self,
        action: str,
        method: str,
        resource: Resource,
        params: Mapping[str, object],
        *,
        by: Upstream | None = None,
        sink: Sink | None = None,
    ) -> Result:
        """Do something of the gateway's own for this call, such as running code or opening a connection.

        `by` carries it out once it is permitted; without it, the resource's upstream does. `sink` takes the events of
        a streamed answer; without it they go where this call's own go.
        """

    def note(self, name: str, value: object) -> None:
        """Have a fact (JSON) stand in the call's record, whatever becomes of the call."""


class Upstream(Protocol):
    """Carries out an authorized call. Raises the `Upstream*` errors; a tool that ran and failed is a `Result`."""

    async def execute(self, authorized: Authorized, relay: Relay) -> Result: ...


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What one call leaves behind, as plain values. Times are nanoseconds; `None` where a stage was not reached."""

    call: Call
    identity: Identity | None
    outcome: str
    """`ok`, `tool_error`, `rpc_error`, `input_required`, `denied`, `failed`, `cancelled`; `intent` before an effect."""
    error: str = ""
    decision_id: str = ""
    revision: str = ""
    engine: str = ""
    cached: bool = False
    reasons: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    result_bytes: int = 0
    ended_ns: int = 0
    """Wall clock at the end, nanoseconds since the epoch."""
    identify_ns: int = 0
    decide_ns: int = 0
    execute_ns: int = 0
    inspect_ns: int = 0
    total_ns: int = 0
    keep_arguments: bool = False
    """Policy said to keep the arguments (`audit` obligation, `arguments: true`)."""
    notes: Mapping[str, object] | None = None


class Recorder(Protocol):
    """Keeps the record of calls."""

    def record(self, record: CallRecord) -> None:
        """Take a record without waiting. Raises `AuditUnavailable` when it cannot be kept."""

    async def commit(self, record: CallRecord) -> None:
        """Return once the record is on disk for good. Raises `AuditUnavailable` otherwise."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key at rest: only the SHA-256 of its secret is kept. Times are seconds since the epoch; 0 is never."""

    id: str
    secret_sha256: bytes
    subject_type: str
    subject_id: str
    tenant: str = ""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    created_s: int = 0
    expires_s: int = 0
    revoked_s: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """The definition of a tool (prompt, resource) as it was first seen or last accepted."""

    upstream: str
    kind: str
    name: str
    digest: str
    definition: bytes
    """Canonical JSON."""
    accepted_by: str = ""
    accepted_s: int = 0


class StateStore(Protocol):
    """Keys and pins, kept over restarts. Nothing on the path of a call waits for it."""

    async def keys(self) -> Sequence[ApiKey]: ...

    async def put_key(self, key: ApiKey) -> None: ...

    async def revoke_key(self, key_id: str, now_s: int) -> bool: ...

    async def pins(self, upstream: str) -> Sequence[Pin]: ...

    async def put_pins(self, pins: Sequence[Pin]) -> None: ...

    async def secret(self, name: str) -> bytes:
        """A random 32-byte secret of that name, made at first use and the same for every replica."""

    async def revision(self) -> int:
        """A number that grows whenever keys or pins change."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Whose an A2A task is. `owner` is the `Identity.principal` that made it; times are in ms since the epoch."""

    agent: str
    task_id: str
    context_id: str
    owner: str
    subject: str
    """The owner as policy names it (`resource.properties.owner`): the id of its subject."""
    tenant: str = ""
    state: str = ""
    """`TASK_STATE_...` as it was last seen."""
    parent_id: str = ""
    """The call that made it."""
    chain: tuple[str, ...] = ()
    """The agents that the call came through, outermost first (loops are refused by it)."""
    created_ms: int = 0
    updated_ms: int = 0


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which of an owner's tasks at an agent are asked for, newest (`updated_ms`, then id) first."""

    agent: str
    owner: str
    context_id: str = ""
    state: str = ""
    updated_after_ms: int = 0
    """Only those that changed then or later."""
    before: tuple[int, str] | None = None
    """Only those after this (`updated_ms`, `task_id`) in that order: where the last page ended."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class PushRecord:
    """A push notification configuration that a caller made. `sealed` holds its address and credentials, encrypted."""

    agent: str
    task_id: str
    config_id: str
    owner: str
    relay_id: str
    """The secret part of our own webhook's address for it."""
    sealed: bytes
    created_ms: int = 0


class TaskStore(Protocol):
    """Who owns which A2A task, context and push configuration, kept over restarts."""

    async def task(self, agent: str, task_id: str) -> TaskRecord | None: ...

    async def claim_task(self, record: TaskRecord) -> TaskRecord | None:
        """Keep a new task and claim its context with it, at once.

        Where the task is known already, whoever made it keeps it: the record that holds is returned, and nothing
        changes. `None`, with nothing kept, when a new task is in a context that is somebody else's.
        """

    async def update_task(self, agent: str, task_id: str, *, state: str, updated_ms: int) -> None:
        """Note what became of a task. A terminal state is final: whatever comes after it changes nothing."""

    async def drop_task(self, agent: str, task_id: str) -> None:
        """Forget a task and its push configurations."""

    async def prune(self, before_ms: int) -> int:
        """Forget the tasks in a terminal state that were made and last changed before, with their configurations.

        Gives how many. Contexts are kept: a forgotten one would be free for anybody while its agent may know it.
        """

    async def tasks(self, query: TaskQuery) -> Sequence[TaskRecord]: ...

    async def count_tasks(self, query: TaskQuery) -> int:
        """How many match, whatever `before` and `limit` say."""

    async def claim_context(self, agent: str, context_id: str, owner: str, now_ms: int) -> str:
        """The owner of a context: who first used it."""

    async def context_owner(self, agent: str, context_id: str) -> str:
        """The owner of a context; empty while it is free."""

    async def put_push(self, record: PushRecord) -> None:
        """Keep a configuration, in place of one with the same agent, task and id."""

    async def pushes(self, agent: str, task_id: str) -> Sequence[PushRecord]: ...

    async def push_of_relay(self, relay_id: str) -> PushRecord | None: ...

    async def drop_push(self, agent: str, task_id: str, config_id: str) -> bool: ...
