"""What is said between a user and an agent, in no service's spelling."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

from higgsfield_async._domain import without_query


class AgentStatus(StrEnum):
    """Whose turn it is in a session. `unknown` is any word this SDK does not know: not an end of a turn."""

    IDLE = "idle"
    PROCESSING = "processing"
    AWAITING_INPUT = "awaiting_input"
    TERMINATED = "terminated"
    UNKNOWN = "unknown"

    @property
    def over(self) -> bool:
        """Whether the agent's turn is over: nothing more comes before it is sent something."""
        return self in {AgentStatus.IDLE, AgentStatus.AWAITING_INPUT, AgentStatus.TERMINATED}


class AgentPart(Struct, frozen=True, kw_only=True):
    """One part of a message.

    Attributes:
        type: The service's own word for what it is, such as `text`, `reasoning` or `step-start`.
        text: What it says; "" where it says nothing in words.
        fields: All of it, as JSON.
    """

    type: str
    text: str = ""
    fields: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        return f"AgentPart(type={self.type!r}, text=…)"


class AgentMessage(Struct, frozen=True, kw_only=True):
    """One message of a session. What it says is not shown in its `repr`.

    Attributes:
        id: The service's id of it; "" where it gives none.
        role: Who says it: `user` or `assistant`.
        status: The service's own word for how far it is: `processing`, `completed` or `failed`.
        parts: What it consists of.
        created_at: When the service says it was created, or None.
        llm_cost_usd: What the language model cost for it, in dollars, or None where the service does not say.
    """

    id: str
    role: str
    status: str
    parts: tuple[AgentPart, ...] = ()
    created_at: datetime | None = None
    llm_cost_usd: Decimal | None = None

    @property
    def text(self) -> str:
        """What it says: its parts of type `text` alone, and not the reasoning behind them."""
        return "".join(part.text for part in self.parts if part.type == "text")

    def __repr__(self) -> str:
        return f"AgentMessage({self.id!r}, role={self.role!r}, status={self.status!r}, parts={len(self.parts)})"


class AgentState(Struct, frozen=True, kw_only=True):
    """What the service said of a session at one moment.

    Attributes:
        status: Whose turn it is.
        raw_status: The service's own word for that.
        messages: The messages that were asked for, the oldest first.
    """

    status: AgentStatus
    raw_status: str
    messages: tuple[AgentMessage, ...] = ()

    @property
    def text(self) -> str:
        """What the agent says in these messages, with an empty line between two of them."""
        return "\n\n".join(each.text for each in self.messages if each.role == "assistant" and each.text)

    def __repr__(self) -> str:
        return f"AgentState(status={self.status.value!r}, messages={len(self.messages)})"


class AgentMedia(Struct, frozen=True, kw_only=True):
    """A file that was uploaded for agents.

    Attributes:
        id: The service's id of it.
        url: Where it lies: what a message names it by. It is shown without its query.
        kind: What it is.
        content_type: Its type, such as `image/jpeg`.
        size: How many bytes it has.
    """

    id: str
    url: str
    kind: Literal["image", "video", "audio", "file"]
    content_type: str
    size: int

    def __repr__(self) -> str:
        return f"AgentMedia({self.id!r}, url={without_query(self.url)!r}, kind={self.kind!r}, size={self.size})"
