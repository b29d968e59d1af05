"""How the reward model is served: address, key, limits, waiting times."""

from __future__ import annotations

import os
from typing import Annotated

from r1reward_verl.settings import Settings, setting

SERVICE_KEY = "R1REWARD_SERVE_KEY"
"""Environment variable with the key that clients have to send."""


class ServeSettings(Settings, frozen=True, kw_only=True):
    """How the HTTP service listens, what it accepts, and how long it waits."""

    host: Annotated[
        str, setting("Address to listen on; 0.0.0.0 for all interfaces of the machine.", metavar="ADDRESS")
    ] = "127.0.0.1"
    port: Annotated[int, setting("Port to listen on; 0 for any free one.", metavar="PORT", ge=0, le=65535)] = 8080
    key_env: Annotated[
        str, setting("Environment variable with the key that clients send as a bearer token.", metavar="NAME")
    ] = SERVICE_KEY
    max_body: Annotated[int, setting("Largest request in MiB.", metavar="MIB", ge=1, le=1024)] = 32
    max_held: Annotated[
        int, setting("Largest size in MiB of all requests that are open at the same time.", metavar="MIB", ge=1)
    ] = 512
    max_requests: Annotated[int, setting("Largest number of open requests.", metavar="N", ge=1)] = 4096
    max_responses: Annotated[int, setting("Largest number of responses in a group.", metavar="N", ge=2)] = 64
    rate: Annotated[
        float | None,
        setting("Requests per second that each client address may send; unlimited by default.", metavar="N", gt=0),
    ] = None
    body_timeout: Annotated[
        float, setting("Seconds in which a client has to send its request.", metavar="SECONDS", gt=0)
    ] = 60.0
    cohort_timeout: Annotated[
        float,
        setting("Seconds that the first response of a cohort waits for the others.", metavar="SECONDS", gt=0),
    ] = 120.0
    drain_timeout: Annotated[
        float,
        setting("Seconds that running requests get to finish after SIGTERM or Ctrl-C.", metavar="SECONDS", ge=0),
    ] = 30.0

    def key(self) -> str | None:
        """Return the key of the service, None if clients need none.

        Raises:
            ValueError: another variable than the default is named, and it is not set.
        """
        key = os.environ.get(self.key_env, "").strip()
        if not key and (self.key_env != SERVICE_KEY or self.key_env in os.environ):
            raise ValueError(
                f"the environment variable {self.key_env} holds no key for the service: set it, or leave out --key-env "
                f"and unset {SERVICE_KEY} to serve without a key"
            )
        return key or None
