"""KubeRay's `RayService`, as far as an export uses it; the whole schema is 1 MB.

Names and types of the fields are those of ``rayservice_types.go`` and ``raycluster_types.go`` in
ray-project/kuberay, ``ray.io/v1``, and of the pods of Kubernetes in them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A field that is not there is an error, as it is for `kubectl apply`."""

    model_config = ConfigDict(extra="forbid")


class Name(Strict):
    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)


class SecretKey(Strict):
    name: str
    key: str


class ValueFrom(Strict):
    secretKeyRef: SecretKey  # noqa: N815


class Variable(Strict):
    name: str
    valueFrom: ValueFrom  # noqa: N815


class Port(Strict):
    name: str = Field(max_length=15)
    containerPort: int  # noqa: N815


Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$")]


class Resources(Strict):
    limits: dict[str, Quantity]
    requests: dict[str, Quantity]


class Container(Strict):
    name: str
    image: str
    env: list[Variable]
    resources: Resources
    ports: list[Port] = []


class Containers(Strict):
    terminationGracePeriodSeconds: int | None = Field(None, ge=0)  # noqa: N815
    containers: list[Container]


class Pod(Strict):
    spec: Containers


class Head(Strict):
    rayStartParams: dict[str, str]  # noqa: N815
    template: Pod


class Group(Head):
    groupName: str  # noqa: N815
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)  # noqa: N815
    maxReplicas: int = Field(ge=0)  # noqa: N815

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        assert self.minReplicas <= self.replicas <= self.maxReplicas
        return self


class Cluster(Strict):
    rayVersion: str  # noqa: N815
    enableInTreeAutoscaling: bool  # noqa: N815
    headGroupSpec: Head  # noqa: N815
    workerGroupSpecs: list[Group]  # noqa: N815


class Spec(Strict):
    serveConfigV2: str  # noqa: N815
    rayClusterConfig: Cluster  # noqa: N815


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayService"]
    metadata: Name
    spec: Spec
