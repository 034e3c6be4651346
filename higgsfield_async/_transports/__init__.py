"""The services, each described in a file of its own."""

from higgsfield_async._transports._base import Transport
from higgsfield_async._transports._environment import Service, transport_from
from higgsfield_async._transports._listings import unlisted
from higgsfield_async._transports._platform import PlatformTransport, read_report
from higgsfield_async._transports._proxy import ProxyTransport

__all__ = ["PlatformTransport", "ProxyTransport", "Service", "Transport", "read_report", "transport_from", "unlisted"]
