"""What a client gets instead of an answer: OpenAI's form of an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class ApiError(Exception):
    """An HTTP status with a message that says what is wrong and what to do."""

    message: str
    status: int = 400
    param: str | None = None  # the field of the request
    code: str | None = None
    kind: str = "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def too_many_requests(waiting: int) -> ApiError:
    message = f"The server is busy: {waiting} texts wait already. Send the request again later."
    return ApiError(message, status=429, code="queue_full", kind="rate_limit_error")


def server_stopped() -> ApiError:
    return ApiError("The server was stopped.", status=503, kind="server_error")


def generation_failed(reason: str) -> ApiError:
    return ApiError(f"The text could not be generated: {reason}", status=500, kind="server_error")
