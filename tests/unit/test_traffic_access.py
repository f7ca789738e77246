"""Who may steer a router: certificates, and a real HAProxy that turns everybody else away."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.router_lab import NAMESPACE, NOW, Lab, authority, operator_client, router_lab

from sluice.traffic import pki
from sluice.traffic.answers import parse_stat
from sluice.traffic.router import AdminPool, RouterClient

DAY = dt.timedelta(days=1)


def outsiders() -> dict[str, ssl.SSLContext]:
    """Everybody who has a piece of the keys, but not the operator's."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.load_verify_locations(cadata=authority().certificate)
    ca = authority().certificate
    other = pki.new_authority(NOW)
    return {
        "no certificate": nobody,
        "a router's certificate": pki.client_context(ca, pki.new_router(authority(), "x", NOW)),
        "another authority's": pki.client_context(ca, pki.new_client(other, NOW)),
    }


def test_the_admin_port_talks_to_the_operator_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            await lab.start("a", await lab.revision("old"))
            assert (await lab.read()).complete
            for who, context in outsiders().items():
                seen = await RouterClient(context, lab.shape).read([lab.pod])
                assert not seen.pods, who
                assert seen.errors["uid-0"].reason == "RouterUnreachable", who
            await _plain_text_is_refused(lab)

    asyncio.run(run())


async def _plain_text_is_refused(lab: Lab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.shape.admin_port)
    writer.write(b"show info\n")
    await writer.drain()
    assert b"Uptime" not in await reader.read(4096)
    writer.close()


def test_the_operator_refuses_a_router_of_another_namespace(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            await lab.start("a", await lab.revision("old"))
            elsewhere = replace(lab.pod, namespace="bank")
            seen = await lab.client().read([elsewhere])
            assert "Hostname mismatch" in seen.errors["uid-0"].message

    asyncio.run(run())


def test_a_renewed_certificate_reaches_running_routers(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            await lab.start("a", await lab.revision("old"))
            renewed = pki.new_router(authority(), NAMESPACE, NOW)
            result = await lab.client().renew_certificate([lab.pod], renewed.pem)
            assert result.ok, result.message
            context = pki.client_context(authority().certificate, operator_client())
            _, writer = await asyncio.open_connection(
                "127.0.0.1",
                lab.shape.admin_port,
                ssl=context,
                server_hostname=pki.router_server_name(NAMESPACE),
            )
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert ssl.DER_cert_to_PEM_cert(shown) == renewed.certificate
            writer.close()
            assert (await lab.read()).complete

    asyncio.run(run())


def test_connections_are_kept_between_looks_and_replaced_when_the_router_restarts(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            await lab.start("a", await lab.revision("old"))
            pool = AdminPool(pki.client_context(authority().certificate, operator_client()))
            client = RouterClient(pool, lab.shape)

            async def connections() -> int:
                async with pool.new(lab.pod, pki.router_server_name(NAMESPACE)) as session:
                    (answer,) = await session.run(["show stat -1 1 -1"])
                return int(parse_stat(answer)["admin"]["stot"])

            before = await connections()
            for _ in range(5):
                assert (await client.read([lab.pod])).complete
            assert await connections() == before + 2, "one for five reads, one for this question"
            await lab.kill()
            await lab.start("a", lab.stable)
            assert (await client.read([lab.pod])).complete
            kept = pool.take(lab.pod)
            assert kept is not None
            # A connection that dies without a word is replaced within the call.
            kept.close()
            pool.give(lab.pod, kept)
            seen = await client.read([lab.pod])
            assert seen.complete, seen.errors
            pool.close()
            assert pool.take(lab.pod) is None

    asyncio.run(run())


def test_certificates_are_renewed_in_their_last_third() -> None:
    leaf = pki.new_router(authority(), "shop", NOW)
    assert not pki.needs_renewal(leaf, authority(), NOW)
    assert not pki.needs_renewal(leaf, authority(), NOW + 59 * DAY)
    assert pki.needs_renewal(leaf, authority(), NOW + 61 * DAY)
    assert pki.needs_renewal(leaf, authority(), NOW + 200 * DAY)
    assert pki.needs_renewal(leaf, authority(), NOW - DAY)


def test_certificates_of_another_authority_or_nonsense_are_renewed() -> None:
    other = pki.new_authority(NOW)
    assert pki.needs_renewal(pki.new_client(other, NOW), authority(), NOW)
    assert pki.needs_renewal(pki.KeyPair("", ""), authority(), NOW)
    assert pki.needs_renewal(pki.KeyPair(authority().certificate, "x"), authority(), NOW)


def test_a_slow_clock_accepts_a_new_certificate() -> None:
    assert not pki.needs_renewal(
        pki.new_client(authority(), NOW), authority(), NOW - dt.timedelta(minutes=59)
    )


def test_a_damaged_authority_says_what_to_do() -> None:
    with pytest.raises(pki.PkiError, match="is not a PEM certificate") as caught:
        pki.new_client(pki.KeyPair("nonsense", "nonsense"), NOW)
    assert "Delete the Secret" in str(caught.value)
    with pytest.raises(pki.PkiError, match="cannot be loaded"):
        pki.client_context("nonsense", operator_client())


def test_a_long_namespace_fits_a_certificate() -> None:
    leaf = pki.new_router(authority(), "n" * 63, NOW)
    assert not pki.needs_renewal(leaf, authority(), NOW)
