"""What exists behind the gateway: the upstreams' catalogs, and the views of them that callers see."""

from gateway.registry.catalog import (
    FactsOf,
    HeaderCheck,
    Item,
    ItemFacts,
    Listing,
    Rejected,
    UpstreamCatalog,
    build_catalog,
    no_facts,
)
from gateway.registry.definitions import KINDS, Kind, Unusable
from gateway.registry.naming import assign_names, merged_name
from gateway.registry.pins import Mode, Pending, Verdict, accept, judge, pending
from gateway.registry.registry import Change, Registry
from gateway.registry.shelf import ListedItem
from gateway.registry.snapshot import Snapshot, UpstreamState, View

__all__ = [
    "KINDS",
    "Change",
    "FactsOf",
    "HeaderCheck",
    "Item",
    "ItemFacts",
    "Kind",
    "ListedItem",
    "Listing",
    "Mode",
    "Pending",
    "Registry",
    "Rejected",
    "Snapshot",
    "Unusable",
    "UpstreamCatalog",
    "UpstreamState",
    "Verdict",
    "View",
    "accept",
    "assign_names",
    "build_catalog",
    "judge",
    "merged_name",
    "no_facts",
    "pending",
]
