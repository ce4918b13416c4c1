"""The text side of an engine that computes on tokens: prompts to ids, and tokens that come to text.

Spec: docs/spec/engines.md, W-18. Refuses to know networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leasehold.core import frames
from leasehold.core.frames import (
    Capability,
    Done,
    Generate,
    Loaded,
    MemoryFile,
    Prob,
    Reason,
    Settings,
)
from leasehold.errors import (
    BadModel,
    BadRequest,
    InputTooLong,
    LeaseholdError,
    UnsupportedParameter,
)
from leasehold.worker import calls, recipe
from leasehold.worker.calls import Outlet
from leasehold.worker.constraint import Constraint, Grammars, Tokens
from leasehold.worker.engine import Emit
from leasehold.worker.recipe import Recipe
from leasehold.worker.spelling import Cut, Speech, Spelling
from leasehold.worker.template import Template


@dataclass(frozen=True, slots=True)
class Read:
    """A piece of the prompt has been read."""


@dataclass(frozen=True, slots=True)
class Made:
    """One token; `last` where no other comes."""

    token: int
    probs: Sequence[tuple[int, float]]
    last: bool
    stopped: bool  # by an end token, or as a grammar is at its end


@dataclass(frozen=True, slots=True)
class Broke:
    """The engine failed."""

    error: LeaseholdError


News = Read | Made | Broke


class Words:
    """Tokenizer, template and limits of one loaded model."""

    def __init__(
        self,
        found: Recipe,
        named: Mapping[str, MemoryFile],
        settings: Settings,
        *,
        constrains: bool = False,
    ) -> None:
        """Read tokenizer.json. Grammars are for engines that ask before each token. Raises BadModel."""
        if recipe.TOKENIZER not in named:
            raise BadModel(about="files", got=sorted(named)[:8], expected=recipe.TOKENIZER)
        self._spelling = Spelling(named[recipe.TOKENIZER])
        self._template = Template(found.template, found.marks) if found.template else None
        rows = found.config.get("vocab_size")
        if not isinstance(rows, int) or self._spelling.size > rows:
            raise BadModel(about="tokens", got=self._spelling.size, expected=rows)
        self.vocabulary = rows
        self._settings = settings
        self.ends = self._find_ends(found)
        self._grammars = self._make_grammars() if constrains else None
        self._calls = self._grammars is not None and self._spells_calls(found.template)
        self.context = min(settings.context_tokens, found.context_tokens)

    def loaded(self, *, has_copied: bool = False) -> Loaded:
        """What an engine can do by these words; `has_copied` as in `Loaded`."""
        can = [Capability.TEXT, Capability.PROBS]
        if self._template is not None:
            can.append(Capability.CHAT)
        if self._grammars is not None:
            can.append(Capability.SCHEMA)
        if self._calls:
            can.append(Capability.TOOLS)
        longest = self._spelling.longest_token_bytes
        return Loaded(tuple(can), self.context, longest, has_copied=has_copied)

    def constraint(self, request: Generate) -> Constraint | None:
        """What holds the answer to a schema, a grammar or a forced call. Raises BadRequest."""
        if self._grammars is None:
            return None
        sampling, tools = request.sampling, calls.wanted(request.prompt)
        return self._grammars.start(sampling.json_schema, sampling.grammar, tools)

    def check_vocabulary(self, rows: int) -> None:
        """Raise BadModel unless the model scores as many tokens as its configuration says."""
        if rows != self.vocabulary:
            raise BadModel(about="vocab_size", got=self.vocabulary, expected=rows)

    def ids(self, what: frames.Input) -> list[int]:
        """Tokens after the template. Raises BadRequest, and UnsupportedParameter for texts to embed."""
        match what:
            case frames.Chat():
                if self._template is None:
                    raise UnsupportedParameter(
                        about="messages", got="a model without a chat template"
                    )
                if what.tools is not None and not self._calls:
                    raise UnsupportedParameter(about="tools")
                return self._spelling.tokens(self._template.render(what), bare=True)
            case frames.Text():
                return self._spelling.tokens(what.text, bare=False)
            case frames.Tokens():
                return self._known(what.ids)
            case frames.Texts():
                raise UnsupportedParameter(about="embeddings")

    def admit(self, request: Generate) -> list[int]:
        """The tokens of a prompt that can be continued.

        Raises InputTooLong, BadRequest, UnsupportedParameter.
        """
        if self._grammars is None and (request.sampling.json_schema or request.sampling.grammar):
            raise UnsupportedParameter(about="json_schema and grammar")
        ids = self.ids(request.prompt)
        if len(ids) >= self.context:
            raise InputTooLong(got=len(ids), expected=self.context - 1)
        if not ids:
            raise BadRequest(about="prompt", got="no token", expected="one token or more")
        return self._known(ids)

    def seed(self, request: Generate) -> int:
        """The caller's, else one that no other request has."""
        own = request.sampling.seed
        return (self._settings.seed + request.id) % (1 << 32) if own is None else own

    def most(self, request: Generate, ids: Sequence[int]) -> int:
        """Tokens that may be made."""
        return min(request.max_tokens, self.context - len(ids))

    def follow(
        self, request: Generate, ids: Sequence[int], news: Callable[[], News], emit: Emit
    ) -> Done:
        """Emit what is made until it ends or nobody wants it. Raises WorkerFailed."""
        speech, cut = Speech(self._spelling, ids), Cut(request.sampling.stop)
        outlet = Outlet(emit, calls.wanted(request.prompt))
        asked, made = len(ids), 0

        def done(reason: Reason) -> Done:
            return Done(request.id, reason, asked, made - outlet.owed)

        while True:
            match news():
                case Broke(error):
                    raise error
                case Read():
                    if not emit("", 0):
                        return done(Reason.CANCELLED)
                case Made(token, probs, last, stopped):
                    made += 1
                    text = cut.take(speech.take(token))
                    if last and not cut.found:
                        text += cut.take(speech.finish())
                        text += "" if cut.found else cut.finish()
                    row = tuple(Prob(self._spelling.own_bytes(one), log) for one, log in probs)
                    ends = last or cut.found
                    if not outlet.tell(text, 1, (row,) if row else (), last=ends):
                        return done(Reason.CANCELLED)
                    if outlet.ended or cut.found or stopped:
                        return done(outlet.reason)
                    if last:
                        return done(Reason.LENGTH)

    def _known(self, ids: Sequence[int]) -> list[int]:
        if ids and max(ids) >= self.vocabulary:
            raise BadRequest(about="token", got=max(ids), expected=f"< {self.vocabulary}")
        return list(ids)

    def _find_ends(self, found: Recipe) -> frozenset[int]:
        if found.ends is not None:
            return found.ends
        mark = self._spelling.token(found.marks.get("eos_token", ""))
        if mark is None:
            expected = f"in {recipe.GENERATION} or {recipe.CONFIG}"
            raise BadModel(about="eos_token_id", expected=expected)
        return frozenset([mark])

    def _spells_calls(self, template: str) -> bool:
        """Does the template know functions, and is what marks a call text and no special token?"""
        marks = self._spelling.text(self._spelling.tokens(calls.OPEN + calls.CLOSE, bare=True))
        return calls.known_to(template) and calls.OPEN in marks and calls.CLOSE in marks

    def _make_grammars(self) -> Grammars | None:
        spelled = self._spelling.table(self.vocabulary)
        if spelled is None or not self.ends:
            return None

        def encode(text: str) -> Sequence[int]:
            return self._spelling.tokens(text, bare=True)

        return Grammars(Tokens(*spelled, min(self.ends), encode))
