"""Steering and reading routers: the weights, the slots, the counters.

Called by the controller; calls ``traffic.admin``.  Every change is read back from the router's
memory before it counts.  The order that keeps users safe is held here: a slot is re-pointed only
while nothing is sent to it, and gets traffic only after it lists pods of its revision and nobody
else.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sluice.errors import SluiceError
from sluice.objects.haproxy_config import PREDICT_TABLE, UNSET_ADDRESS, RouterShape, map_path
from sluice.objects.router_plan import PLAN_KEY, SLOTS, SlotTarget, Weights
from sluice.traffic.admin import AdminPool, AdminSession, RouterError, RouterPod
from sluice.traffic.answers import (
    ServerRow,
    parse_map,
    parse_servers,
    parse_stat,
    parse_table,
    parse_uptime,
    parse_words,
)
from sluice.traffic.observation import (
    PodObservation,
    PodResult,
    PushResult,
    RouterObservation,
    SlotCounters,
    SlotState,
)
from sluice.traffic.pki import router_server_name

__all__ = ["AdminPool", "RouterClient", "RouterError", "RouterObservation", "RouterPod"]

VIP = "vip"
_COLUMNS = {
    "requests": "stot",
    "s2xx": "hrsp_2xx",
    "s4xx": "hrsp_4xx",
    "s5xx": "hrsp_5xx",
    "connect_errors": "econ",
    "response_errors": "eresp",
    "retries": "wretr",
    "redispatches": "wredis",
    "client_aborts": "cli_abrt",
    "server_aborts": "srv_abrt",
}

T = TypeVar("T")


class RouterClient:
    """Talks to router pods, all at once, each with its own deadline.

    ``access`` is an ``AdminPool`` that outlives the client, or a context for connections that end
    with each call.
    """

    def __init__(
        self,
        access: AdminPool | ssl.SSLContext,
        shape: RouterShape | None = None,
        *,
        timeout: float = 4.0,
    ) -> None:
        self._pool = access if isinstance(access, AdminPool) else AdminPool(access, idle=0)
        self._shape = shape or RouterShape()
        self._timeout = timeout

    async def read(self, pods: Sequence[RouterPod]) -> RouterObservation:
        """What every pod says now."""
        seen: list[PodObservation] = []
        errors: dict[str, SluiceError] = {}
        for pod, answer in await self._each(pods, self._read):
            if isinstance(answer, PodObservation):
                seen.append(answer)
            else:
                errors[pod.uid] = answer
        return RouterObservation(tuple(seen), errors)

    async def set_weights(
        self,
        pods: Sequence[RouterPod],
        weights: Weights,
        *,
        listed: Mapping[str, Collection[str]] | None = None,
        check: bool = True,
    ) -> PushResult:
        """Make ``weights`` the split on every pod, and confirm it.

        A slot that gets traffic it did not have must list a pod that passes its checks, and none
        but its addresses in ``listed``; so must a slot in ``listed`` that gets more, unless it is
        stable, which takes back what others lose.  A pod where that does not hold is left as it
        is.  ``check=False`` is for emergencies: nothing is asked first.
        """

        async def push(session: AdminSession, pod: RouterPod) -> None:
            if check:
                seen = await self._observe(session, pod)
                if seen.weights == weights:
                    return
                _refuse_early_traffic(seen, weights, listed or {})
            path = map_path(self._shape, "weights")
            answers = await session.run(
                [f"set map {path} {PLAN_KEY} {weights.encode()}", f"show map {path}"]
            )
            got = parse_map(answers[1]).get(PLAN_KEY, "nothing")
            if got != weights.encode():
                raise _not_confirmed(pod, f"weights {weights.encode()}", got, answers[0])

        return await self._change(pods, push)

    async def point_slot(
        self, pods: Sequence[RouterPod], slot: str, target: SlotTarget
    ) -> PushResult:
        """Point ``slot`` at another revision on every pod, and confirm it.

        Refused on a pod that sends requests to the slot.
        """

        async def push(session: AdminSession, pod: RouterPod) -> None:
            seen = await self._observe(session, pod)
            if seen.slots[slot].points_at(target):
                return
            if slot in seen.weights.carrying():
                raise RouterError(
                    f"Router {pod.namespace}/{pod.name} sends requests to slot {slot}, which "
                    f"cannot be pointed at revision {target.revision} now.",
                    hint="Set its weight to 0 first.",
                    reason="SlotCarriesTraffic",
                )
            answers = await session.run(self._pointing(slot, seen.slots[slot].known, target))
            state = (await self._observe(session, pod)).slots[slot]
            if not state.points_at(target):
                said = next((a.strip() for a in answers if a.strip()), "nothing")
                raise _not_confirmed(pod, f"slot {slot} at {target}", str(state), said)

        return await self._change(pods, push)

    async def renew_certificate(self, pods: Sequence[RouterPod], pem: str) -> PushResult:
        """Give running routers a renewed certificate; they read files at start only.

        They keep the CA they started with: a new CA needs new pods.
        """

        async def push(session: AdminSession, pod: RouterPod) -> None:
            path = f"{self._shape.tls_dir}/router.pem"
            payload = "\n".join(line for line in pem.splitlines() if line.strip())
            answers = await session.run(
                [f"set ssl cert {path} <<\n{payload}\n", f"commit ssl cert {path}"]
            )
            if "Success" not in answers[1]:
                raise _not_confirmed(pod, "a renewed certificate", answers[1], answers[0])

        return await self._change(pods, push)

    def _pointing(self, slot: str, known: Collection[str], target: SlotTarget) -> list[str]:
        count = self._shape.servers_per_slot
        vip = target.cluster_ip or UNSET_ADDRESS
        return [
            f"set map {map_path(self._shape, 'revisions')} {slot} {target.revision}",
            f"set map {map_path(self._shape, 'timeouts')} {slot} {target.timeout_ms}",
            f"set server {slot}/{VIP} state maint",
            *self._forgetting(slot, known),
            *(f"set server {slot}/s{i} fqdn {target.host}" for i in range(1, count + 1)),
            f"set server {slot}/{VIP} addr {vip} port {self._shape.service_port}",
            *([f"set server {slot}/{VIP} state ready"] if target.cluster_ip else []),
        ]

    def _forgetting(self, slot: str, known: Collection[str]) -> Iterable[str]:
        """Another address closes idle connections, which another name does not.

        Without it requests go on reaching the pods before, through connections that are open still.
        And who was up there is not up elsewhere until a check has passed.
        """
        for server in sorted(known):
            yield f"set server {slot}/{server} addr {UNSET_ADDRESS} port {self._shape.serving_port}"
            yield f"set server {slot}/{server} health down"

    async def _read(self, session: AdminSession, pod: RouterPod) -> PodObservation:
        return await self._observe(session, pod)

    async def _observe(self, session: AdminSession, pod: RouterPod) -> PodObservation:
        answers = await session.run(
            [
                f"show map {map_path(self._shape, 'weights')}",
                f"show map {map_path(self._shape, 'revisions')}",
                "show servers state",
                "show stat -1 2 -1",
                f"show table {PREDICT_TABLE}",
                "show sluice",
                "show info",
            ]
        )
        try:
            return _observation(pod, answers)
        except (KeyError, ValueError, IndexError) as error:
            raise RouterError(
                f"Router {pod.namespace}/{pod.name} gave an answer that cannot be understood: "
                f"{error!r}.",
                hint="Delete the pod; its Deployment replaces it.",
                reason="RouterAnswer",
            ) from error

    async def _change(
        self, pods: Sequence[RouterPod], push: Callable[[AdminSession, RouterPod], Awaitable[None]]
    ) -> PushResult:
        answers = await self._each(pods, push)
        return PushResult(
            tuple(PodResult(pod, a if isinstance(a, SluiceError) else None) for pod, a in answers)
        )

    async def _each(
        self,
        pods: Sequence[RouterPod],
        work: Callable[[AdminSession, RouterPod], Awaitable[T]],
    ) -> list[tuple[RouterPod, T | SluiceError]]:
        async def one(pod: RouterPod) -> T | SluiceError:
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._talk(pod, work)
            except TimeoutError:
                return RouterError(
                    f"Router {pod.namespace}/{pod.name} at {pod.address}:{pod.port} did not answer "
                    f"within {self._timeout:g} s.",
                    hint="The operator tries again; see the pod's log if this stays.",
                )
            except SluiceError as error:
                return error

        return list(zip(pods, await asyncio.gather(*(one(pod) for pod in pods)), strict=True))

    async def _talk(
        self, pod: RouterPod, work: Callable[[AdminSession, RouterPod], Awaitable[T]]
    ) -> T:
        kept = self._pool.take(pod)
        if kept is not None:
            try:
                return await self._with(kept, pod, work)
            except RouterError as error:
                # It hung up meanwhile.  Every command may be given twice.
                if error.reason != RouterError.reason:
                    raise
        session = self._pool.new(pod, router_server_name(pod.namespace))
        try:
            await session.open()
        except BaseException:
            session.close()
            raise
        return await self._with(session, pod, work)

    async def _with(
        self,
        session: AdminSession,
        pod: RouterPod,
        work: Callable[[AdminSession, RouterPod], Awaitable[T]],
    ) -> T:
        try:
            answer = await work(session, pod)
        except BaseException:
            session.close()
            raise
        self._pool.give(pod, session)
        return answer


def _refuse_early_traffic(
    seen: PodObservation, weights: Weights, listed: Mapping[str, Collection[str]]
) -> None:
    for slot in SLOTS:
        before, after = seen.weights.share(slot), weights.share(slot)
        begins = before == 0 and after > 0
        raised = after > before and slot in listed and slot != weights.stable
        if not begins and not raised:
            # Stable that already serves takes back what others lose: nothing may stop that.
            continue
        state = seen.slots[slot]
        why = state.not_ready(listed.get(slot))
        if why:
            raise RouterError(
                f"Router {seen.pod.namespace}/{seen.pod.name} cannot send {after:g} % to slot "
                f"{slot} (revision {state.revision}) yet: it {why}.",
                hint="The operator tries again.",
                reason="SlotNotReady",
            )


def _not_confirmed(pod: RouterPod, wanted: str, got: str, said: str) -> RouterError:
    return RouterError(
        f"Router {pod.namespace}/{pod.name} was told {wanted} but has {got.strip()[:200]} "
        f"({said.strip()[:200] or 'no message'}).",
        hint="The operator tries again; delete the pod if this stays.",
        reason="RouterNotConfirmed",
    )


def _observation(pod: RouterPod, answers: Sequence[str]) -> PodObservation:
    weights, revisions, servers, stat, table, ours, info = answers
    marks = parse_map(revisions)
    rows = parse_servers(servers)
    stats = parse_stat(stat)
    predictions = parse_table(table)
    own = parse_words(ours, " ")
    return PodObservation(
        pod=pod,
        boot=own["boot"],
        uptime=parse_uptime(info),
        weights=Weights.decode(parse_map(weights)[PLAN_KEY]),
        slots={slot: _slot_state(marks[slot], rows[slot]) for slot in SLOTS},
        counters={slot: _counters(stats[slot], predictions.get(slot, 0)) for slot in SLOTS},
        mounted_weights=_mounted_weights(own.get("weights", "")),
        mounted_roles=_mounted_roles(own.get("roles", "")),
        feedback=own.get("feedback") == "open",
    )


def _slot_state(revision: str, rows: Sequence[ServerRow]) -> SlotState:
    pods = [row for row in rows if row.name != VIP]
    vip = next(row for row in rows if row.name == VIP)
    return SlotState(
        revision=revision,
        hosts=frozenset(row.host or "" for row in pods),
        addresses=frozenset(row.address for row in pods if row.address),
        up=frozenset(row.address for row in pods if row.address and row.up),
        known=frozenset(row.name for row in pods if row.address),
        vip=vip.address if vip.up else None,
    )


def _counters(row: Mapping[str, str], predictions: int) -> SlotCounters:
    counts = {name: int(row[column] or 0) for name, column in _COLUMNS.items()}
    ended = int(row["stot"] or 0) - int(row["scur"] or 0)
    unanswered = max(0, ended - int(row["req_tot"] or 0))
    return SlotCounters(predictions=predictions, unanswered=unanswered, **counts)


def _mounted_weights(text: str) -> Weights | None:
    try:
        return Weights.decode(text.split(" ", 1)[1])
    except (IndexError, ValueError):
        return None


def _mounted_roles(text: str) -> Mapping[str, Any] | None:
    try:
        roles = json.loads(text)
    except ValueError:
        return None
    return roles if isinstance(roles, dict) else None
