"""What Schemathesis has to be told; it imports this by SCHEMATHESIS_HOOKS. A tus chunk is bytes."""

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
