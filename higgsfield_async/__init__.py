"""An asyncio SDK for Higgsfield's image and video generation, over the reseller proxy or the platform itself."""

import logging

import msgspec

from higgsfield_async._agents import Agents, AgentSession
from higgsfield_async._budget import Budget, Cost, Estimates, Spending
from higgsfield_async._characters import Characters
from higgsfield_async._client import Higgsfield
from higgsfield_async._conversation import AgentMedia, AgentMessage, AgentPart, AgentState, AgentStatus
from higgsfield_async._domain import (
    AvatarPreset,
    Character,
    Estimate,
    Job,
    JobSet,
    JobStatus,
    MarketingPreset,
    Media,
    Model,
    Motion,
    SoulStyle,
    Sound,
    TaskRef,
    Upload,
    Usage,
    Voice,
)
from higgsfield_async._downloads import MediaStream, Progress, Writer
from higgsfield_async._errors import (
    ApiError,
    ArgumentWarning,
    AuthenticationFailed,
    BudgetExceeded,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    ContentRejected,
    DownloadError,
    FieldError,
    GenerationCanceled,
    GenerationError,
    GenerationFailed,
    HiggsfieldError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    MalformedResponse,
    NotCancelable,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceUnavailable,
    SubmissionUnknown,
    Unsupported,
    UploadError,
    WaitTimeout,
    WebhookError,
)
from higgsfield_async._fanout import Outcome, Outcomes, Stats
from higgsfield_async._limits import Limits
from higgsfield_async._media import MediaSource
from higgsfield_async._polling import PollPolicy
from higgsfield_async._requests import (
    Ad,
    CharacterTraining,
    DopMotion,
    DopVideo,
    GenerationRequest,
    ImageToVideo,
    Keyframes,
    ModelRequest,
    Soul,
    Speak,
    Speech,
    TalkingHead,
    Webhook,
)
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._task import GenerationTask
from higgsfield_async._telemetry import LastWords
from higgsfield_async._transports import PlatformTransport, ProxyTransport, Transport

__all__ = [
    "Ad",
    "AgentMedia",
    "AgentMessage",
    "AgentPart",
    "AgentSession",
    "AgentState",
    "AgentStatus",
    "Agents",
    "ApiError",
    "ArgumentWarning",
    "AuthenticationFailed",
    "AvatarPreset",
    "Budget",
    "BudgetExceeded",
    "Character",
    "CharacterTraining",
    "Characters",
    "ClientClosed",
    "ConfigurationError",
    "ConnectionFailed",
    "ContentRejected",
    "Cost",
    "DopMotion",
    "DopVideo",
    "DownloadError",
    "Estimate",
    "Estimates",
    "FieldError",
    "GenerationCanceled",
    "GenerationError",
    "GenerationFailed",
    "GenerationRequest",
    "GenerationTask",
    "Higgsfield",
    "HiggsfieldError",
    "ImageToVideo",
    "InsufficientCredits",
    "InvalidRequest",
    "Job",
    "JobSet",
    "JobStatus",
    "JournalError",
    "Keyframes",
    "Limits",
    "MalformedResponse",
    "MarketingPreset",
    "Media",
    "MediaSource",
    "MediaStream",
    "Model",
    "ModelRequest",
    "Motion",
    "NotCancelable",
    "NotFound",
    "Outcome",
    "Outcomes",
    "PermissionDenied",
    "PlatformTransport",
    "PollPolicy",
    "Progress",
    "ProxyTransport",
    "RateLimited",
    "RetryPolicy",
    "ServiceUnavailable",
    "Soul",
    "SoulStyle",
    "Sound",
    "Speak",
    "Speech",
    "Spending",
    "Stats",
    "SubmissionUnknown",
    "TalkingHead",
    "TaskRef",
    "Transport",
    "Unsupported",
    "Upload",
    "UploadError",
    "Usage",
    "Voice",
    "WaitTimeout",
    "Webhook",
    "WebhookError",
    "Writer",
]

logging.getLogger(__name__).addHandler(LastWords())

# Tracebacks and reprs name what a user imports, not where it happens to be written. Not so the structs: msgspec reads
# their annotations in the module that they name, when it first needs them.
for _value in [globals()[name] for name in __all__]:
    if isinstance(_value, type) and not issubclass(_value, msgspec.Struct):
        _value.__module__ = __name__
