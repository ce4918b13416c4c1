"""How the operators' commands reach the custodian: mutual TLS, one record there, one record back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import httpx2

from leasehold.cli import output
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import Problem
from leasehold.custodian.proposed import ProposalView
from leasehold.custodian.settings import (
    FIRST_OPERATOR,
    Credentials,
    Place,
    parse_place,
    read_credentials,
    read_ring,
)
from leasehold.custodian.wrapping.ring import KeyRing
from leasehold.errors import BadSetting, CustodianUnreachable, FileTrouble, from_wire
from leasehold.net.tls import client_context

T = TypeVar("T")
TIMEOUT_SECONDS: Final = 45.0  # the longest an answer is held back for news is 30
PROPOSED: Final = 6  # the exit status of what is not done yet: a script must not go on
_OK: Final = 200
_ACCEPTED: Final = 202

folder_option = click.option(
    "--custodian",
    "folder",
    type=click.Path(path_type=Path),
    default="custodian",
    show_default=True,
    envvar="LEASEHOLD_CUSTODIAN",
    show_envvar=True,
    metavar="DIR",
    help="The custodian's folder; of it only the address, the CA and the operator's certificate are read.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Proposed(Exception):
    """The act takes several hands, and became a proposal (O-19)."""

    def __init__(self, view: ProposalView) -> None:
        super().__init__(view.id)
        self.view = view


@dataclass(frozen=True, slots=True)
class Access:
    """An open connection to the custodian under an operator's certificate."""

    client: httpx2.Client
    name: str

    def get(self, path: str, kind: type[T], **query: object) -> T:
        """Read something. Raises what the custodian refused with, CustodianUnreachable, BadMessage."""
        return from_json(self.read(path, **query), kind)

    def read(self, path: str, **query: object) -> bytes:
        """Read something that is no record: its bytes. Raises as `get` does."""
        return self._send("GET", path, query=_asked(query))

    def post(self, path: str, body: object, kind: type[T]) -> T:
        """Change something. Raises as `get` does, and Proposed."""
        return from_json(self._send("POST", path, body=to_json(body)), kind)

    def put(self, path: str, body: object, kind: type[T]) -> T:
        """Put something in place. Raises as `post` does."""
        return from_json(self._send("PUT", path, body=to_json(body)), kind)

    def _send(
        self, method: str, path: str, *, body: bytes = b"", query: dict[str, str] | None = None
    ) -> bytes:
        try:
            answer = self.client.request(
                method,
                path,
                content=body,
                params=query or {},
                extensions={"sni_hostname": self.name},
            )
        except httpx2.HTTPError as cause:
            raise CustodianUnreachable(about=self.client.base_url, got=cause) from cause
        if answer.status_code == _ACCEPTED:
            raise Proposed(from_json(answer.content, ProposalView))
        if answer.status_code != _OK:
            problem = from_json(answer.content, Problem)
            raise from_wire(problem.code, problem.message)
        return answer.content


def _asked(query: Mapping[str, object]) -> dict[str, str]:
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in query.items()
        if value is not None
    }


@contextmanager
def connect(credentials: Credentials, address: Place) -> Iterator[Access]:
    """A connection that trusts the custodian's own CA and nothing else."""
    context = client_context(
        credentials.ca, certificate=credentials.certificate, key=credentials.key
    )
    with httpx2.Client(
        verify=context, base_url=f"https://{address}", timeout=TIMEOUT_SECONDS, trust_env=False
    ) as client:
        yield Access(client, credentials.name)


def with_access(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say which custodian and who asks, and hands the command an `Access`."""

    @folder_option
    @click.option(
        "--operator", default=FIRST_OPERATOR, show_default=True, help="Whose certificate to use."
    )
    @click.option(
        "--address", metavar="HOST:PORT", help="Where it is, if not where its folder says."
    )
    @wraps(command)
    def with_options(*, folder: Path, operator: str, address: str | None, **others: Any) -> None:
        credentials = read_credentials(folder, operator)
        place = credentials.address if address is None else parse_place(address)
        try:
            with connect(credentials, place) as access:
                command(access, **others)
        except Proposed as proposed:
            write_proposed(proposed.view, is_json=others.get("as_json", False))
            click.get_current_context().exit(PROPOSED)

    return with_options


def write_proposed(view: ProposalView, *, is_json: bool) -> None:
    """That nothing is done yet, and what another operator is to run."""
    if is_json:
        output.write_json(view)
        return
    click.echo(
        f"proposed as {view.id}; needs {view.missing} more: "
        f"leasehold proposals approve {view.id} --digest {view.digest}"
    )


def unlock(folder: Path) -> KeyRing:
    """What opens the keys of a custodian's folder; asks on the terminal for what no file holds."""
    return read_ring(folder, ask=ask_secret)


def ask_secret(name: str) -> str:
    """Ask the person at the terminal. Raises BadSetting where there is no terminal."""
    if not sys.stdin.isatty():
        raise BadSetting(about=name, got="no terminal to ask on", expected="a file named in [keys]")
    return str(click.prompt(name, hide_input=True, err=True))


def read_bytes(path: Path) -> bytes:
    """A file that the user named. Raises FileTrouble."""
    try:
        return path.read_bytes()
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause


def write_bytes(path: Path | None, data: bytes) -> None:
    """Write a file that the user named, or standard output. Raises FileTrouble."""
    if path is None:
        click.echo(data, nl=False)
        return
    try:
        path.write_bytes(data)
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause
