"""Fills a server with many Services and slices, faster than it would take them one after the other."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence

from tests.kube.client import Client, Object
from tests.kube.etcd import Etcd

_KEYS = {
    "Service": "/registry/services/specs/",
    "EndpointSlice": "/registry/endpointslices/",
    "IPAddress": "/registry/ipaddresses/",
}


def seed(things: Sequence[Object], client: Client, etcd: Etcd) -> None:
    """Make objects as the server would, of each kind all with the same fields; its cache has them then.

    The first one of each kind is created through the server. What that added to it (defaults, and who manages
    which field) the others get too, and are written into the database, as JSON, which the server reads as it
    reads the protobuf that it writes itself.
    """
    kinds: defaultdict[str, list[Object]] = defaultdict(list)
    for thing in things:
        kinds[thing["kind"]].append(thing)
    for kind, (first, *others) in kinds.items():
        made = client.create(first)
        if kind == "Service":
            # Before the Services, else the server finds their addresses missing and makes them itself.
            for number, address in enumerate(made["spec"]["clusterIPs"]):
                example = client.get(f"/apis/networking.k8s.io/v1/ipaddresses/{address}")
                _put_like(example, [_address(other, number) for other in others], client, etcd)
        _put_like(made, others, client, etcd)


def remove_slices(namespace: str, etcd: Etcd) -> None:
    """Remove all slices of a namespace."""
    etcd.delete_all(f"{_KEYS['EndpointSlice']}{namespace}/")


def _address(service: Object, number: int) -> Object:
    """Return what is particular about the object by which a Service has one of its addresses."""
    metadata, addresses = service["metadata"], service["spec"]["clusterIPs"]
    parent = {"namespace": metadata["namespace"], "name": metadata["name"]}
    return {"kind": "IPAddress", "metadata": {"name": addresses[number]}, "spec": {"parentRef": parent}}


def _put_like(example: Object, things: Sequence[Object], client: Client, etcd: Etcd) -> None:
    """Write objects, and wait until the server's cache has them and the example."""
    revision = int(example["metadata"]["resourceVersion"])
    if things:
        revision = etcd.put([(_key(thing), _stored(example, thing)) for thing in things])
    client.wait_for_revision([example, *things][-1], revision)


def _key(thing: Object) -> str:
    metadata = thing["metadata"]
    return _KEYS[thing["kind"]] + "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _stored(example: Object, thing: Object) -> Object:
    stored = _completed(thing, example)
    stored["metadata"] |= {
        "uid": str(uuid.uuid4()),
        "creationTimestamp": example["metadata"]["creationTimestamp"],
    }
    del stored["metadata"]["resourceVersion"]  # what the database itself says of it
    return stored


def _completed(thing: Object, example: Object) -> Object:
    """Add to an object the fields that only an example has; lists are whole."""
    completed = example | thing
    for name in example.keys() & thing.keys():
        if isinstance(thing[name], dict):
            completed[name] = _completed(thing[name], example[name])
    return completed
