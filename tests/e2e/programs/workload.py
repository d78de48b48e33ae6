"""A workload with a plain gRPC client: the SPIFFE project's own messages, none of ours.

Commands come as JSON Lines, each is answered by an event of its name; `follow` goes on telling
`update` and at last `end`. `at` is the machine's monotonic time, which all processes share.
"""

from __future__ import annotations

import argparse
import encodings.idna
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from spiffe._proto import workload_pb2, workload_pb2_grpc

_LOADED_EARLY = (encodings.idna,)
HEADER = (("workload.spiffe.io", "true"),)


def tell(event: str, **facts: Any) -> None:
    """One line in one write."""
    os.write(1, json.dumps({"event": event, "at": time.monotonic(), **facts}).encode() + b"\n")


def describe(message: Any) -> dict[str, Any]:
    """An answer of FetchX509SVID without its secrets."""
    svids = []
    for svid in message.svids:
        serial = f"{read_leaf(svid).serial_number:040x}"
        svids.append({"spiffe_id": svid.spiffe_id, "serial": serial})
    lists = [x509.load_der_x509_crl(crl) for crl in message.crl]
    revoked = [f"{entry.serial_number:040x}" for crl in lists for entry in crl]
    return {"svids": svids, "revoked": revoked, "lists": len(lists)}


def read_leaf(svid: Any) -> x509.Certificate:
    """The first certificate; these chains have no more."""
    return x509.load_der_x509_certificate(svid.x509_svid)


def describe_failure(error: grpc.RpcError) -> dict[str, Any]:
    """How a call ended."""
    return {"status": error.code().name, "detail": error.details()}


class Workload:
    """One process' side of the Workload API."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def _open(self) -> grpc.Channel:
        return grpc.insecure_channel(self._endpoint)

    def _first(self) -> Any:
        with self._open() as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            request = workload_pb2.X509SVIDRequest()
            return next(iter(stub.FetchX509SVID(request, metadata=HEADER, timeout=15)))

    def fetch(self) -> dict[str, Any]:
        """What this process holds now."""
        return describe(self._first())

    def fetch_jwt(self, audience: str) -> dict[str, Any]:
        """A token, whose value isn't told."""
        with self._open() as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            request = workload_pb2.JWTSVIDRequest(audience=[audience])
            answer = stub.FetchJWTSVID(request, metadata=HEADER, timeout=15)
        return {"spiffe_ids": [svid.spiffe_id for svid in answer.svids]}

    def write(self, folder: str) -> dict[str, Any]:
        """The first SVID as PEM files."""
        message = self._first()
        svid = message.svids[0]
        key = load_der_private_key(svid.x509_svid_key, None)
        pem = read_leaf(svid).public_bytes(Encoding.PEM)
        Path(folder, "svid.pem").write_bytes(pem)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        Path(folder, "svid.key").write_bytes(private)
        return describe(message)

    def follow(self) -> dict[str, Any]:
        """Begin to follow in a thread."""
        threading.Thread(target=self._follow, daemon=True).start()
        return {}

    def _follow(self) -> None:
        with self._open() as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            answers: Iterable[Any] = stub.FetchX509SVID(
                workload_pb2.X509SVIDRequest(), metadata=HEADER
            )
            try:
                for message in answers:
                    tell("update", **describe(message))
            except grpc.RpcError as error:
                tell("end", **describe_failure(error))
            else:
                tell("end", status="OK", detail="")


def main() -> None:
    """Do what the commands say until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("--uid", type=int)
    options = parser.parse_args()
    if options.uid is not None:
        os.setgroups([])
        os.setgid(options.uid)
        os.setuid(options.uid)
    workload = Workload(options.endpoint)
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        try:
            tell(do, **getattr(workload, do)(**command))
        except grpc.RpcError as error:
            tell(do, **describe_failure(error))


if __name__ == "__main__":
    main()
