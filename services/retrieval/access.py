"""Who may use a collection.

A collection belongs to the tenant that made it, and to no other does it exist. Within the tenant an access list may narrow who
reads and who writes. The gateway tells who calls, in metadata that it alone sets (`x-penstock-tenant`, `-user`, `-groups`); a
service that is reached without a gateway trusts whoever reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from services.chassis.call import current_call
from services.chassis.errors import Failure, Reason

EVERYONE: Final = "*"


class Right(IntEnum):
    """What a caller wants to do; whoever may write may read."""

    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Without a user it is somebody of the tenant, nobody knows who."""

    tenant: str
    user: str
    groups: tuple[str, ...]

    @property
    def principals(self) -> frozenset[str]:
        """What an access list may call the caller."""
        named = {f"user:{self.user}"} if self.user else set()
        return frozenset({EVERYONE, *named, *(f"group:{group}" for group in self.groups)})


def caller() -> Caller:
    """Who makes the call that is being served."""
    call = current_call()
    return Caller(call.tenant, call.user, call.groups)


@dataclass(frozen=True, slots=True)
class AccessList:
    """Who of the tenant may read, and who may write: `user:` or `group:` and a name, or `*` for all."""

    readers: tuple[str, ...]
    writers: tuple[str, ...]

    def allows(self, who: Caller, right: Right) -> bool:
        """Whether the list names the caller for it."""
        named = (*self.writers, *self.readers) if right == Right.READ else self.writers
        return not who.principals.isdisjoint(named)


def may(access: AccessList | None, owner: str, right: Right) -> bool:
    """Whether the caller has the right; no list means that all of the tenant have, and the owner always has."""
    who = caller()
    return access is None or bool(owner and owner == who.user) or access.allows(who, right)


def denied(collection: str) -> Failure:
    """That the caller may read, and no more."""
    return Failure(
        Reason.PERMISSION_DENIED,
        f"you may read collection {collection!r}, but not change it; ask its owner to name you among its writers",
        metadata={"collection": collection},
    )
