"""The Kubernetes cluster that this pod runs in. Its client is an extra of the services that ask, and slow to import."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class NoCluster(Exception):
    """This process does not run in a pod with a service account; the message says what is missing."""


@asynccontextmanager
async def api_client(*apis: str) -> AsyncIterator[tuple["ApiClient", str]]:
    """A client with this pod's own service account, and the pod's namespace. Raises NoCluster.

    `apis`: modules of `kubernetes.aio.client.api` that are going to be used. They are imported in a thread: their
    thousand types take a second, in which the event loop has other things to do.
    """
    for module in apis:
        await asyncio.to_thread(importlib.import_module, f"kubernetes.aio.client.api.{module}")
    from kubernetes.aio.client import ApiClient, Configuration
    from kubernetes.aio.config import ConfigException, load_incluster_config

    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # it has no types
        namespace = await asyncio.to_thread(NAMESPACE_FILE.read_text)
    except (ConfigException, OSError) as error:
        raise NoCluster(str(error)) from None
    async with ApiClient(configuration) as client:
        yield client, namespace.strip()
