"""Kinds of values that many calls take and answer: ids, times, sizes. For this package."""

from __future__ import annotations

from typing import Annotated

from chalicelib.auth.policy import ROLES, TOKEN_PERMISSIONS
from chalicelib.web.openapi.schemas import says

Id = Annotated[str, says(pattern="^[0-9a-f]{32}$")]
Time = Annotated[str, says(format="date-time")]
Epoch = Annotated[int, "Seconds since 1970, UTC."]
Bytes = Annotated[int, says(minimum=0)]
Count = Annotated[int, says(minimum=0)]
Digest = Annotated[str, says(pattern="^[0-9a-f]{64}$")]
Role = Annotated[str, says(enum=tuple(ROLES))]
TokenPermission = Annotated[str, says(enum=tuple(sorted(one.value for one in TOKEN_PERMISSIONS)))]
Numbers = dict[str, Count]
