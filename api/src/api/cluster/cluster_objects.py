"""The parts of Kubernetes' objects that `capacity` reads; what an object leaves out is empty here."""

from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic.alias_generators import to_camel
from pydantic_core.core_schema import ValidationInfo


class ClusterObject(BaseModel):
    """Base of all: unknown fields are ignored, and null is the same as absent."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        field = cls.model_fields[info.field_name]
        return field.get_default(call_default_factory=True) if value is None and not field.is_required() else value


class Metadata(ClusterObject):
    """Of any object."""

    name: str = ""
    labels: dict[str, str] = {}
    deletion_timestamp: datetime | None = None


class Condition(ClusterObject):
    """Of a pod or of a deployment."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class Pause(ClusterObject):
    """Why a container waits, or how it ended."""

    reason: str = ""
    message: str = ""
    exit_code: int = 0


class ContainerState(ClusterObject):
    """One of them is set."""

    waiting: Pause | None = None
    running: dict[str, object] | None = None
    terminated: Pause | None = None


class ContainerStatus(ClusterObject):
    """One container of a pod."""

    name: str
    ready: bool = False
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(ClusterObject):
    """What the kubelet and the scheduler say of a pod."""

    phase: str = ""
    conditions: list[Condition] = []
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []


class Resources(ClusterObject):
    """What a container asks for."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}

    def wanted(self, resource: str) -> str:
        """As it was written; empty: nothing."""
        return self.requests.get(resource) or self.limits.get(resource, "")


class Container(ClusterObject):
    """What should run."""

    resources: Resources = Resources()


class PodSpec(ClusterObject):
    """What is wanted of a pod."""

    containers: list[Container] = []


class Pod(ClusterObject):
    """A worker's pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Event(ClusterObject):
    """Something that happened to a pod."""

    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: datetime | None = None
    event_time: datetime | None = None

    @property
    def moment(self) -> float:
        """Seconds since the epoch; events of new and old kind keep their time in different fields."""
        time = self.last_timestamp or self.event_time
        return time.timestamp() if time else 0.0


class DeploymentSpec(ClusterObject):
    """What is wanted."""

    replicas: int = 1


class DeploymentStatus(ClusterObject):
    """What there is."""

    ready_replicas: int = 0
    conditions: list[Condition] = []


class Deployment(ClusterObject):
    """The workers of a model."""

    metadata: Metadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


Item = TypeVar("Item", bound=ClusterObject)


class ListOf(ClusterObject, Generic[Item]):
    """The reply to a list request."""

    items: list[Item] = []
