"""Small pieces that Envoy's typed configuration is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import any_pb2, duration_pb2

from services.gateway.settings import parse_address

if TYPE_CHECKING:
    from google.protobuf.message import Message


def any_of(message: Message) -> Any:
    """The message in an Any, the same bytes each time."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def seconds(value: float) -> Any:
    """A protobuf duration."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


def socket_address(value: str) -> Any:
    """Envoy's form of `host:port`."""
    host, port = parse_address(value)
    both = host == "::"  # all addresses: those of IPv4 as well
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port, ipv4_compat=both))


def set_header(name: str, value: str) -> Any:
    """Sets a header, over one that is there."""
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def header_is(name: str, value: str) -> Any:
    """Matches a header of exactly this value."""
    return route_components_pb2.HeaderMatcher(name=name, string_match=string_pb2.StringMatcher(exact=value))


def header_begins(name: str, prefix: str, *, negate: bool = False) -> Any:
    """Matches a header that begins so, in any case of letters. An absent header matches neither this nor its negation."""
    matcher = string_pb2.StringMatcher(prefix=prefix, ignore_case=True)
    return route_components_pb2.HeaderMatcher(name=name, string_match=matcher, invert_match=negate)


def header_contains(name: str, text: str) -> Any:
    """Matches a header that holds the text, in any case of letters."""
    matcher = string_pb2.StringMatcher(contains=text, ignore_case=True)
    return route_components_pb2.HeaderMatcher(name=name, string_match=matcher)


def header_matches(name: str, pattern: str) -> Any:
    """Matches a header by a regular expression over its whole value; an absent one counts as empty."""
    matcher = string_pb2.StringMatcher(safe_regex={"regex": pattern})
    return route_components_pb2.HeaderMatcher(name=name, string_match=matcher, treat_missing_header_as_empty=True)
