"""Stand-in: the base class."""

from abc import ABC, abstractmethod
from typing import Any


class ConfigParserBase(ABC):
    """Gives a configuration for a name."""

    @abstractmethod
    def parse(
        self,
        model: Any,
        trust_remote_code: bool,
        revision: str | None = None,
        code_revision: str | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], Any]:
        """As a dict, and as `transformers` has it."""
