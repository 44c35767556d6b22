"""How large the made-up fleet is and how it is spread. Pure: the same numbers give the same fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

# The first tenant is a provider's largest customer; the others get ever smaller.
BIG_TENANT_SHARE = 0.2
SERVERS_PER_NODE = 200
SERVERS_PER_OWNER = 10
# Of each hundred servers so many belong to somebody.
OWNED_PERCENT = 30
# Of as many servers one has an agent and no node; one backs up to files on its node, not to the vault.
SERVERS_PER_AGENT, SERVERS_PER_FILE = 10, 20
# What the backups are spread over, where there are fewer nights than that.
DAYS = 30
RESELLERS = 10
TENANTS_PER_RESELLER = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """`at` is the present of the fleet: everything lies before it."""

    tenants: int
    servers: int
    backups: int
    seed: int
    at: datetime

    @property
    def rounds(self) -> int:
        """How many nights there are: each server has a backup of each, until the number is reached."""
        return -(-self.backups // self.servers)

    @property
    def days_apart(self) -> int:
        """From one night with backups to the next."""
        return max(1, DAYS // self.rounds)

    @property
    def days(self) -> int:
        """From the first night to the present."""
        return self.rounds * self.days_apart

    def servers_of_tenants(self) -> list[int]:
        """How many servers each tenant has, the largest first; at least one."""
        big = max(1, int(self.servers * BIG_TENANT_SHARE)) if self.tenants > 1 else self.servers
        weights = [1 / (rank + 10) for rank in range(self.tenants - 1)]
        rest = self.servers - big
        counts = [max(1, int(rest * weight / sum(weights))) for weight in weights]
        # What rounding left goes to the second.
        if counts:
            counts[0] += rest - sum(counts)
        return [big, *counts]


def id_at(moment: datetime, random: Random) -> UUID:
    """A UUID version 7 of the moment, as `common.ids.new_id` makes them."""
    value = (int(moment.timestamp() * 1000) & (1 << 48) - 1) << 80 | random.getrandbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def slot_of(shape: Shape, night: int, offset_seconds: int) -> datetime:
    """The time of a backup: `night` counts from the oldest, the offset from 22:00 on."""
    last = shape.at.replace(hour=22, minute=0, second=0, microsecond=0) - timedelta(days=2)
    return last - timedelta(days=(shape.rounds - 1 - night) * shape.days_apart) + timedelta(seconds=offset_seconds)
