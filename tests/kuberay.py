"""The fields of KubeRay's custom resources and of their pods, as far as ``cluster/`` uses them.

After the API reference of KubeRay 1.6 (``ray.io/v1``) and of Kubernetes: names, types, what must be
there. A field that is not here is either misspelt or has to be added here first.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Only known fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _quantity(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?", text):
        raise ValueError(f"{text!r} is no quantity such as 200m, 4 or 16Gi")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise ValueError(f"{text!r} is no DNS label")
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]
Name = Annotated[str, AfterValidator(_name)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Env(Strict):
    name: str
    value: str


class ContainerPort(Strict):
    name: Annotated[Name, Field(max_length=15)]
    containerPort: Port


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]

    @model_validator(mode="after")
    def gpus_are_limited_to_what_is_asked(self) -> Resources:
        gpu = "nvidia.com/gpu"
        assert self.limits.get(gpu) == self.requests.get(gpu)
        return self


class Mount(Strict):
    name: Name
    mountPath: Annotated[str, Field(pattern="^/")]
    readOnly: bool = False


class Container(Strict):
    name: Name
    image: str
    env: list[Env] = []
    ports: list[ContainerPort] = []
    resources: Resources
    volumeMounts: list[Mount] = []


class Claim(Strict):
    claimName: Name
    readOnly: bool = False


class ConfigMap(Strict):
    name: Name


class Volume(Strict):
    name: Name
    persistentVolumeClaim: Claim | None = None
    configMap: ConfigMap | None = None

    @model_validator(mode="after")
    def comes_from_one_place(self) -> Volume:
        assert (self.persistentVolumeClaim is None) != (self.configMap is None)
        return self


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(gt=0)]
    fsGroup: Annotated[int, Field(gt=0)]


class PodSpec(Strict):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []
    securityContext: PodSecurity | None = None
    serviceAccountName: Name | None = None
    terminationGracePeriodSeconds: Annotated[int, Field(ge=0)] | None = None
    nodeSelector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    restartPolicy: Literal["Always", "OnFailure", "Never"] | None = None

    @model_validator(mode="after")
    def mounts_are_of_volumes(self) -> PodSpec:
        mounted = {mount.name for one in self.containers for mount in one.volumeMounts}
        assert mounted == {volume.name for volume in self.volumes}
        return self


class PodTemplate(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: Annotated[int, Field(ge=0)]
    minReplicas: Annotated[int, Field(ge=0)]
    maxReplicas: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def is_in_order(self) -> WorkerGroup:
        assert self.minReplicas <= self.replicas <= self.maxReplicas
        return self


class AuthOptions(Strict):
    mode: Literal["token", "disabled"]


class RayClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]

    @model_validator(mode="after")
    def groups_have_names_of_their_own(self) -> RayClusterSpec:
        names = [group.groupName for group in self.workerGroupSpecs]
        assert len(set(names)) == len(names)
        return self


class Metadata(Strict):
    name: Name


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]
    backoffLimit: Annotated[int, Field(ge=0)]
    activeDeadlineSeconds: Annotated[int, Field(gt=0)]
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Annotated[int, Field(ge=0)]
    submitterPodTemplate: PodTemplate
    rayClusterSpec: RayClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec

    @property
    def cluster(self) -> RayClusterSpec:
        return self.spec.rayClusterSpec
