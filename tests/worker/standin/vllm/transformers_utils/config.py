"""Stand-in: the table of parsers."""

from typing import Any

from vllm.transformers_utils.config_parser_base import ConfigParserBase

PARSERS: dict[str, Any] = {}


def register_config_parser(config_format: str) -> Any:
    """As vLLM's: takes subclasses of its own."""

    def register(parser: Any) -> Any:
        assert issubclass(parser, ConfigParserBase)
        PARSERS[config_format] = parser
        return parser

    return register
