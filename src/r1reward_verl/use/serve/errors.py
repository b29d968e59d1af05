"""Errors of the service, as clients see them: a status, what is wrong and where, and the way out."""

from __future__ import annotations

import json
from typing import Any

RETRY_AFTER = 2
"""Seconds after which a client may try again when the service is full, or about to restart."""


class ServeError(Exception):
    """A request that gets no result.

    Args:
        status: HTTP status.
        kind: the same for programs, such as `invalid_request`.
        message: what is wrong, and the way out.
        field: of the request's body, such as `responses[2].images[0]`.
        row: position in a request that holds several rows.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        field: str | None = None,
        row: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.field, self.row, self.retry_after = field, row, retry_after

    def body(self) -> bytes:
        """Return the JSON of the answer."""
        content: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.field is not None:
            content["field"] = self.field
        if self.row is not None:
            content["row"] = self.row
        return json.dumps({"error": content}).encode()

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer beside its type and length."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def invalid(message: str, field: str | None = None, row: int | None = None) -> ServeError:
    """Return the error for a request that cannot be meant."""
    return ServeError(422, "invalid_request", message, field=field, row=row)


def unavailable(message: str) -> ServeError:
    """Return the error for a request that may succeed later."""
    return ServeError(503, "unavailable", message, retry_after=RETRY_AFTER)
