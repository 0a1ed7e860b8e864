"""From a pipeline to an app."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlkit.define.shipping import dumps, loads
from mlkit.errors import Cancelled, DeployError, SessionError
from mlkit.pipelines import Pipeline
from mlkit.plan import Layout, Plan, Profile, plan
from mlkit.serving.bundle import Origin, Packed, pack
from mlkit.serving.control.protocol import DeployApp
from mlkit.serving.control.records import AppSpec
from mlkit.serving.http.access import new_token
from mlkit.serving.http.userapp import Application
from mlkit.serving.kernel.app import App
from mlkit.serving.kernel.cluster import check_asks_for_token
from mlkit.serving.kernel.scale import spec_of
from mlkit.serving.kernel.session import Progress, Session
from mlkit.serving.limits import Limits

__all__ = ["attach", "deploy", "deploy_to"]


DEFAULT_LIMITS = Limits()


def deploy(
    pipeline: Pipeline[..., Any],
    *,
    fastapi: Application | None = None,
    address: str = "local",
    insecure_cluster: bool = False,
    port: int | None = None,
    token: str | None = "",
    fresh: bool = False,
    layout: Layout = "fused",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    profile: Profile | None = None,
    num_replicas: int | None = None,
    autoscaling_config: Mapping[str, Any] | None = None,
    ray_actor_options: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    observe: bool = True,
    progress: bool = True,
) -> App:
    """Serve a pipeline on Ray Serve, behind FastAPI; the same cell again updates it in place.

    The first call of a notebook starts a session: a detached process with a Ray of its own. If the
    new version does not come up, or the call is interrupted, what was served before still is.

    Args:
        pipeline: what to serve; its name is its path.
        fastapi: a FastAPI application of one's own, or a function that makes one; the pipeline is
            served in it, and its routes get it by ``Depends(served(pipeline))``. Where its own
            routes read ``Authorization``, callers send mlkit's token as ``X-Mlkit-Token``.
        address: "local", or the address of a running Ray cluster.
        insecure_cluster: join a cluster that asks for no token of Ray's own: whoever reaches its
            ports can run code on it, and so on this machine.
        port: of the HTTP front end, for the session's first deployment; any free one by default.
        token: bearer token that callers need; made by default, None for none, which is for
            ``address="local"`` only.
        fresh: replace the replicas, and so rebuild every resource, though nothing changed.
        layout: "fused" keeps all steps in the process that answers HTTP, but for those that ask
            for a stage of their own; "per_step" gives each its own. See `mlkit.plan.plan`.
        options: what to change of steps' options, by the name of the step.
        profile: what `mlkit.plan.profile` measured, to choose sizes of batches by.
        num_replicas: processes that answer HTTP; each holds all steps that are in no other stage.
        autoscaling_config: Serve's, for these processes, instead of ``num_replicas``.
        ray_actor_options: resources of one of these by Ray's names (``num_cpus``, ``num_gpus``).
        limits: on bodies, requests at once and time.
        workers: threads of a replica that run steps; two more than its cores by default, one of
            which rests while calls are short and little waits.
        observe: whether requests are counted and timed, for `App.metrics` and its like.
        progress: whether to say what is going on while it comes up.

    Raises:
        DeployError: the pipeline has problems (all are listed), its replicas do not start, or the
            cluster is open to strangers.
    """
    if token is None and address != "local":
        raise DeployError(
            "token=None is for a loopback address only, and replicas of a cluster listen on all",
            where=f"address={address!r}",
            fix="leave out token=, and one is made",
        )
    planned = plan(
        pipeline,
        layout=layout,
        options=options,
        profile=profile,
        num_replicas=num_replicas,
        autoscaling_config=autoscaling_config,
        ray_actor_options=ray_actor_options,
    )
    packed = pack(planned, fastapi)
    with _progress(f"deploying {pipeline.name}", progress) as say:
        session = Session.of_this_notebook()
        if session is None:
            if not (address == "local" or insecure_cluster):
                check_asks_for_token(address)
            session = Session.start(address=address, port=port, say=say)
        else:
            _check_place(session, address, port)
        return deploy_to(
            session,
            planned,
            packed,
            token=token,
            fresh=fresh,
            limits=limits,
            workers=workers,
            observe=observe,
            say=say,
        )


def _check_place(session: Session, address: str, port: int | None) -> None:
    """Refuse another place than the one that this notebook's session is at already."""
    about = session.about()
    there = about.address, about.port
    if there != (address, port or about.port):
        raise DeployError(
            "this notebook has a session somewhere else",
            expected=f"address={there[0]!r}, port={there[1]}",
            got=f"address={address!r}, port={port}",
            fix="app.shutdown() each of its apps first, or leave out address= and port=",
        )


def deploy_to(
    session: Session,
    planned: Plan,
    packed: Sequence[Packed],
    *,
    token: str | None,
    limits: Limits,
    fresh: bool = False,
    workers: int | None = None,
    observe: bool = True,
    say: Progress = lambda text: None,
) -> App:
    """Bring a plan, and what `mlkit.serving.bundle.pack` made of it, to a session; see `deploy`."""
    name = planned.graph.name
    store = session.store.put
    spec = AppSpec(
        app=name,
        stages=tuple(spec_of(stage, store) for stage in packed),
        plan=store(dumps(planned)),
        origin=Origin.here(),
        limits=limits,
        token=_token(session, name, token),
        workers=workers,
        observe=observe,
        fresh=secrets.token_hex(4) if fresh else "",
    )
    return App(session, planned, session.call(DeployApp(spec=spec), say=say))


def _token(session: Session, name: str, token: str | None) -> str | None:
    """The given token, else the one that the app has already, else a new one."""
    if token != "":
        return token
    record = session.about().apps.get(name)
    return (record and record.spec.token) or new_token()


def attach(name: str | None = None) -> App:
    """The app that a former kernel of this notebook deployed.

    Args:
        name: of its pipeline, where there are several.

    Raises:
        SessionError: there is none, or none of that name.
    """
    session = Session.of_this_notebook()
    apps = session.about().apps if session else {}
    if session is None or not apps:
        raise SessionError("there is no app to attach to", fix="deploy(pipeline) makes one")
    if name is None and len(apps) == 1:
        name = next(iter(apps))
    if name not in apps:
        raise SessionError(
            "which app?" if name is None else f"there is no app {name!r}",
            expected=f"one of {', '.join(apps)}",
            fix=f"attach({next(iter(apps))!r})",
        )
    record = apps[name]
    return App(session, loads(session.store.get(record.spec.plan)), record)


@contextmanager
def _progress(what: str, shown: bool) -> Iterator[Progress]:
    from tqdm.auto import tqdm

    bar = tqdm(
        desc=what, bar_format="{desc} [{elapsed}]", leave=False, disable=not shown, mininterval=0
    )

    def say(text: str) -> None:
        bar.set_description_str(f"{what}: {text}")

    try:
        yield say
    except KeyboardInterrupt:
        raise Cancelled(
            f"{what} was interrupted", fix="what was served before still is; run the cell again"
        ) from None
    finally:
        bar.close()
