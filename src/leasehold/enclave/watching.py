"""An instance as a witness of its custodian's audit log: it cosigns what extends what it saw, and only that.

Spec: docs/spec/witness.md, J-5 and J-6. Refuses to know: channels, and what the log's entries say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leasehold.core.checkpoint import checkpoint_text, cosigned_text
from leasehold.core.crypto import SigningKey, check_signature
from leasehold.core.merkle import check_consistency
from leasehold.core.messages import LogHead
from leasehold.core.units import SECOND, Clock
from leasehold.enclave.log import Log
from leasehold.errors import BadSignature, Unproven


@dataclass(slots=True)
class LogWatch:
    """What was seen of one log, in memory: a new instance begins anew. Without a key nothing is watched."""

    origin: str
    public: bytes
    key: SigningKey
    clock: Clock
    log: Log
    seen: LogHead = field(default_factory=lambda: LogHead(0, 0, b"", b""))
    cosignature: bytes = b""
    forked: bool = False

    @property
    def size(self) -> int | None:
        """J-5: what the custodian is to extend; None where nothing more will be signed."""
        return None if self.forked or not self.public else self.seen.size

    def hear(self, head: LogHead | None) -> None:
        """J-5, J-6: cosign a head that extends what was seen; a signed one that does not is a fork.

        A head that is about something older crossed another one on its way, and is passed over.
        """
        size, root = self.seen.size, self.seen.root
        if head is None or head.old != self.size:
            return
        text = checkpoint_text(self.origin, head.size, head.root)
        try:
            check_signature(self.public, text.encode(), head.signature)
            if size:
                check_consistency(
                    old_size=size, old_head=root, size=head.size, head=head.root, proof=head.proof
                )
        except BadSignature as failure:
            self.log.event("log_not_signed", code=failure.code)
        except Unproven as failure:
            self.forked = True
            self.log.event("log_fork", code=failure.code, seen=self.seen, shown=head)
        else:
            seconds = self.clock.now() // SECOND
            signature = self.key.sign(cosigned_text(text, seconds))
            self.seen, self.cosignature = head, seconds.to_bytes(8, "big") + signature
