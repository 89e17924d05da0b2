"""Keys under which the package keeps what belongs to a request in its `extensions`."""

from __future__ import annotations

PAUSED_KEY = "asyncstreams.paused"
"""The seconds that the request waited for a permit."""
SLOT_KEY = "asyncstreams.slot"
"""The slot of the slice, released during long waits."""
PERMIT_KEY = "asyncstreams.permit"
"""The last permit, needed to report the outcome of the request."""
TOKEN_KEY = "asyncstreams.token"
"""The position of the token among those of a MultipleTokenAuthenticator."""
ANSWERED_KEY = "asyncstreams.answered"
"""The request of the last redirect that was followed, if there was one."""
UNCREDENTIALED_KEY = "asyncstreams.uncredentialed"
"""Set if the request goes without the stream's credential, cookies and headers."""
CHANNEL_KEY = "channel"
"""For our transport: requests with the same object use connections of their own."""
