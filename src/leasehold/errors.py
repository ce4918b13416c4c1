"""Every refusal of Leasehold: one tree, ordered by who is to blame, with codes that never change.

The class docstring says what happened, `expected` and `got` say what was compared, `do` says what
to do next. Codes go on the wire, into the audit log and into `docs/errors.md`, which a test keeps
equal to this module. Refuses to know: prose about one particular occurrence.
"""

from __future__ import annotations

from typing import ClassVar

_SHOWN_MAX = 160  # characters of an offending value that are echoed; enough for a SHA-512 in hex


def _show(value: object) -> str:
    text = value.hex() if isinstance(value, bytes | bytearray) else str(value)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}... ({len(text)} characters)"


class LeaseholdError(Exception):
    """Something was refused."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500  # HTTP status where this error becomes an answer
    do: ClassVar[str] = ""

    def __init__(
        self,
        *,
        expected: object = None,
        got: object = None,
        about: object = None,
        told: str | None = None,
    ) -> None:
        self.expected, self.got, self.about, self.told = expected, got, about, told
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """What happened, what was got, what was expected and what to do: one paragraph.

        `told` replaces it all where the refusal came over the wire with words of its own.
        """
        if self.told is not None:
            return self.told
        parts = [(type(self).__doc__ or "Refused.").split("\n")[0].strip()]
        for name, value in (("About", self.about), ("Got", self.got), ("Expected", self.expected)):
            if value is not None:
                parts.append(f"{name}: {_show(value)}.")
        if self.do:
            parts.append(self.do)
        return " ".join(parts)

    def again(self) -> LeaseholdError:
        """The same refusal to be raised anew: whoever raises one object twice keeps both callers' frames."""
        return type(self)(expected=self.expected, got=self.got, about=self.about, told=self.told)


# The four kinds of blame -------------------------------------------------------------------------


class Malformed(LeaseholdError):
    """They broke the format."""

    code = "malformed"
    status = 400


class Unproven(LeaseholdError):
    """The evidence does not show what it must show."""

    code = "unproven"
    status = 403


class Refused(LeaseholdError):
    """Understood, and the answer is no."""

    code = "refused"
    status = 403


class Unavailable(LeaseholdError):
    """The world failed."""

    code = "unavailable"
    status = 503


# Formats -----------------------------------------------------------------------------------------


class BadMessage(Malformed):
    """A message does not have the form that the protocol gives it."""

    code = "bad_message"
    do = "Both ends must run the same protocol version; compare `leasehold --version` on both."


class BadSetting(Malformed):
    """A setting is missing, unknown or of the wrong kind."""

    code = "bad_setting"
    do = "Correct the named key in the file and start again."


class BadSignature(Malformed):
    """A signature does not fit the key and the bytes it stands under."""

    code = "bad_signature"
    do = "Get the file again from the custodian; it was changed, cut or signed by another key."


class BadRequest(Malformed):
    """The request is not what this endpoint takes."""

    code = "invalid_request"
    do = "Correct the named field and ask again; nothing was charged."


class BodyTooLarge(Malformed):
    """The request body is larger than this server reads."""

    code = "body_too_large"
    status = 413
    do = "Send a smaller request; nothing was charged."


class UnsupportedParameter(Malformed):
    """The request asks for something that this enclave does not do."""

    code = "unsupported_parameter"
    do = "Leave the named parameter out; nothing was charged."


class InputTooLong(Malformed):
    """The input has more tokens than the model takes."""

    code = "context_length_exceeded"
    do = "Shorten the input or split it; nothing was charged."


class AnswerTooLarge(Malformed):
    """The answer has more bytes than the rows that were asked for may carry."""

    code = "answer_too_large"
    do = "Ask for fewer outputs, or for more rows with the parameter `leasehold_rows`."


class BadRange(Malformed):
    """The range is not one range of bytes inside the file."""

    code = "range_not_satisfiable"
    status = 416
    do = "Ask for one range, `bytes=FIRST-LAST`, that begins inside the file."


class UnknownEndpoint(Malformed):
    """There is nothing at this address."""

    code = "unknown_endpoint"
    status = 404
    do = "See docs/spec/session.md for what an enclave answers."


class BadEvidence(Malformed):
    """The evidence is not of the form that its platform defines."""

    code = "bad_evidence"
    do = "The enclave's platform driver is broken or the evidence was cut in transit."


class UnsupportedEvidence(BadEvidence):
    """The evidence is of a kind that this version does not verify."""

    code = "unsupported_evidence"
    do = "Use a platform and a quote format that docs/spec/evidence.md lists."


class BadManifest(Malformed):
    """The manifest is incomplete or has a field that no manifest has."""

    code = "bad_manifest"
    do = "Correct the named field and sign the manifest again."


class BadAddress(Malformed):
    """An address is not of the form HOST:PORT."""

    code = "bad_address"
    do = "Write it like enclave.example:8443 or [::1]:8443, with or without https:// before it."


class BadSealedModel(Malformed):
    """The sealed model is cut short, damaged or not a sealed model."""

    code = "bad_sealed_model"
    do = "Fetch the sealed file again; no part of the damaged file was used."


class BadModel(Malformed):
    """The model's own files are not what their engine reads."""

    code = "bad_model"
    do = "Seal a folder whose files the named engine can load."


# Evidence ----------------------------------------------------------------------------------------


class WrongMeasurement(Unproven):
    """The enclave runs code that the manifest does not list."""

    code = "wrong_measurement"
    do = "Run the released enclave, or have the custodian add this measurement to the manifest."


class PlatformNotAllowed(Unproven):
    """The manifest has no reference values for this kind of platform."""

    code = "platform_not_allowed"
    do = "Run on a platform that the manifest names, or have the custodian add its values."


class WrongSigner(Unproven):
    """The enclave's signer or product is not the one that the manifest names."""

    code = "wrong_signer"
    do = "Run the enclave that the custodian released."


class EnclaveTooOld(Unproven):
    """The enclave's security version is lower than the manifest's minimum."""

    code = "enclave_too_old"
    do = "Run the current release of the enclave."


class WrongConfigId(Unproven):
    """The enclave's CONFIGID, CONFIGSVN, family or extended product id is not the manifest's."""

    code = "wrong_config_id"
    do = "Start the enclave with the launch configuration that the custodian released."


class WrongAttributes(Unproven):
    """The enclave runs with attributes that the manifest does not allow."""

    code = "wrong_attributes"
    do = "Run the enclave in the mode that the manifest names: never debug, never migratable."


class DebugEnclave(WrongAttributes):
    """The enclave can be debugged, so its host can read everything in it."""

    code = "debug_enclave"
    do = "Build and run the enclave without debugging; no manifest can allow it."


class WrongBinding(Unproven):
    """The evidence was made for other keys, another nonce, another purpose or another custodian."""

    code = "wrong_binding"
    do = "Ask for fresh evidence on this very connection; old or relayed evidence never passes."


class WrongConfiguration(Unproven):
    """The enclave's configuration is not one that the manifest lists."""

    code = "wrong_configuration"
    do = "Use the configuration file that the custodian signed, unchanged."


class WrongCustodian(Unproven):
    """The manifest or the enclave belongs to another custodian."""

    code = "wrong_custodian"
    do = "Compare the custodian's root key with the one you were given."


class UnknownMachine(Unproven):
    """The machine is not on the manifest's list, however genuine it is."""

    code = "unknown_machine"
    do = "Have the custodian add this machine's identity to the manifest, if it is one it lent to."


class WrongDevices(UnknownMachine):
    """The devices are not exactly those that the manifest lists for this machine."""

    code = "wrong_devices"
    do = "Attest every listed GPU and switch once; have the custodian list those that were exchanged."


class UntrustedRoot(Unproven):
    """The evidence ends in a root that the manifest does not trust."""

    code = "untrusted_root"
    do = "Only the vendor's root passes, or a simulated root that the signed manifest names."


class EvidenceRejected(Unproven):
    """The evidence is not authentic: a signature, a chain or a revocation check failed."""

    code = "evidence_rejected"
    do = "The machine or its evidence is not genuine, or its certificate was revoked."


class QuoteForged(EvidenceRejected):
    """A signature in the quote does not fit: the quote was changed or never came from a machine."""

    code = "quote_forged"


class CertificateRejected(EvidenceRejected):
    """A certificate in the machine's chain is not valid now or does not fit its issuer."""

    code = "certificate_rejected"


class CertificateRevoked(EvidenceRejected):
    """The vendor revoked a certificate in the chain."""

    code = "certificate_revoked"


class TcbNotCurrent(Unproven):
    """The platform's patch level is not UpToDate and no waiver covers it."""

    code = "tcb_not_current"
    do = "Update the machine's firmware and microcode, or have the custodian sign a dated waiver."


class TcbRevoked(TcbNotCurrent):
    """The vendor revoked this patch level; no waiver can cover it."""

    code = "tcb_revoked"
    do = "Update the machine's firmware and microcode."


class CollateralMissing(Unproven):
    """There is no current collateral to judge this evidence with."""

    code = "collateral_missing"
    do = "Have the custodian fetch or import collateral for this platform."


class CollateralNotCurrent(CollateralMissing):
    """The collateral has expired, or is not valid yet."""

    code = "collateral_not_current"
    do = "Have the custodian fetch or import current collateral; compare the clocks."


class CollateralRejected(Unproven):
    """The collateral is not authentic or not readable."""

    code = "collateral_rejected"
    do = "Fetch it again from the vendor's own service; never take collateral from the borrower."


class WrongSignerRole(CollateralRejected):
    """The collateral is signed by a key that may not sign collateral."""

    code = "wrong_signer_role"


class CollateralMismatch(CollateralRejected):
    """The collateral is for another platform, processor family or certification enclave."""

    code = "collateral_mismatch"


class CollateralRolledBack(CollateralRejected):
    """The collateral is older than collateral that was already accepted."""

    code = "collateral_rolled_back"


class ManifestExpired(Unproven):
    """The manifest is past its expiry date."""

    code = "manifest_expired"
    do = "Get the current manifest from the custodian."


class BadBackup(Malformed):
    """The file is not a whole backup of this custodian's ledger."""

    code = "bad_backup"
    do = "Take another backup; `leasehold custodian backup --check FILE` says whether one is good."


class WrongNonce(Unproven):
    """The nonce was never issued, was already used or is too old."""

    code = "wrong_nonce"
    do = "Ask for a new challenge and answer it within a minute."


class EvidenceExpired(Unproven):
    """The evidence behind this channel is too old."""

    code = "evidence_expired"
    do = "Attest again."


class WrongModel(Unproven):
    """The sealed file holds another model than the one that was lent."""

    code = "wrong_model"
    do = "Use the sealed file that the custodian lent; an older or other one never passes."


class WrongModelKey(Unproven):
    """The key does not open this sealed model."""

    code = "wrong_model_key"
    do = "Seal the model again, or restore the key that belongs to it."


class WrongReceipt(Unproven):
    """The receipt is not for this answer, from this enclave."""

    code = "wrong_receipt"
    do = "Keep the receipt and show it to the custodian; the enclave vouched for something else."


class LedgerOld(Unproven):
    """The ledger is not the one that this folder's newest checkpoint signed: an old copy was put back."""

    code = "ledger_old"
    status = 503
    do = (
        "Put the newest ledger back, or take a backup and run `leasehold custodian restore FILE --replace`; "
        "nothing is served from this one."
    )


class ReceiptsWrong(Unproven):
    """The receipts do not agree with the ledger and its log."""

    code = "receipts_wrong"
    do = "Look at the faults above; keep the receipts, they are signed."


# Access and budget -------------------------------------------------------------------------------


class UnknownKey(Refused):
    """The API key is missing or not known here."""

    code = "invalid_api_key"
    status = 401
    do = "Send `Authorization: Bearer KEY` with the key that the custodian gave you."


class CertificateNeeded(Refused):
    """This endpoint wants a client certificate, and none was shown."""

    code = "certificate_required"
    status = 401
    do = "Connect with the certificate that the custodian issued to you."


class NotPermitted(Refused):
    """This operator or certificate may not do that."""

    code = "not_permitted"
    do = "Use a certificate whose role allows it."


class ForeignPage(Refused):
    """A page that is not the custodian's own sent this with an operator's certificate; it was not done."""

    code = "foreign_page"
    status = 403
    do = "Open the custodian's console in a tab of its own, and use its own forms and links."


class HandsNeeded(Refused):
    """This takes the hands of several operators, and here was one."""

    code = "hands_needed"
    do = "Propose it through the operators' API or command line, and have others approve it."


class AlreadyApproved(Refused):
    """This operator's hand counts for the proposal already, and counts once."""

    code = "already_approved"
    status = 409
    do = "Have another administrator approve it."


class WrongProposal(Refused):
    """The digest is not the proposal's: what was looked at is not what would be approved."""

    code = "wrong_proposal"
    status = 409
    do = "Look at it again with `leasehold proposals show NUMBER`, and approve the digest shown there."


class ProposalClosed(Refused):
    """The proposal can no longer be approved."""

    code = "proposal_closed"
    status = 409
    do = "Propose it anew; see `leasehold proposals list --all` for what became of it."


class WrongEngine(Refused):
    """The model was sealed for another engine than the one that this enclave's configuration names."""

    code = "wrong_engine"
    do = "Seal the model with the engine of the loan's configuration, or configure the loan for its engine."


class UnknownModel(Refused):
    """This enclave does not serve the model that was asked for."""

    code = "model_not_found"
    status = 404
    do = "Ask GET /v1/models which model is served."


class UnknownThing(Refused):
    """There is nothing of that name."""

    code = "not_found"
    status = 404
    do = "List what there is with the `list` form of the same command."


class AlreadyExists(Refused):
    """Something of that name is already there."""

    code = "already_exists"
    status = 409
    do = "Choose another name."


class Conflict(Refused):
    """The same request came before with other contents, or the state does not allow it."""

    code = "conflict"
    status = 409
    do = "Look at the current state, then ask again."


class LedgerInUse(Refused):
    """Another process works on this custodian's ledger."""

    code = "ledger_in_use"
    status = 409
    do = "Stop the custodian of this folder (SIGTERM), then run this again."


class BudgetExhausted(Refused):
    """The budget does not cover this request."""

    code = "insufficient_quota"
    status = 429
    do = "Ask the custodian for more with `leasehold request-more`; trying again will not help."


class NotPriced(Refused):
    """The loan's tariff has no price for this kind of work."""

    code = "not_priced"
    do = "Ask the custodian for a loan with a tariff that names it; nothing was charged."


class LoanStopped(Refused):
    """The custodian stopped this loan, this enclave or this consumer."""

    code = "loan_stopped"
    do = "Only the custodian can resume it; ask the custodian."


class LeaseLapsed(Refused):
    """The lease ran out because the custodian has not renewed it."""

    code = "lease_lapsed"
    do = "The enclave has lost contact with its custodian; service returns when contact does."


class NotVerified(Refused):
    """The request would go to an address whose enclave was not verified, so it was not sent."""

    code = "not_verified"
    do = "Send it to the verified enclave's address over https, or connect to the other one first."


class NoModelYet(Unavailable):
    """The enclave has not been given a model, or gave it back."""

    code = "no_model"
    do = "Wait until the enclave has attested; see its log for the custodian's reason if it does not."


class NoMemoryFiles(Unavailable):
    """The kernel has no memory files, and a model's plaintext goes nowhere else."""

    code = "no_memory_files"
    do = "Run the enclave in a TDX or SEV-SNP guest, or sign unsafe_engine_in_process: Gramine needs that."


class SwapOn(Unavailable):
    """This machine writes pages of memory to a disk, and those of a model could not be kept from that."""

    code = "swap_on"
    do = "Run `swapoff -a`, or let the enclave lock its memory (LimitMEMLOCK=infinity, ulimit -l unlimited)."


class EngineNeedsProcess(Refused):
    """The engine must not run in the governor's own process, and the configuration wants that."""

    code = "engine_needs_process"
    do = "Configure another engine, such as onnx, or run the enclave in a TDX or SEV-SNP guest."


class ModelTooLarge(Unavailable):
    """There is not the memory that the engine takes while it loads this model."""

    code = "model_too_large"
    do = "Give the enclave more memory, or lend a smaller model; docs/spec/engines.md has each engine's need."


class TooBusy(Refused):
    """The queue is full."""

    code = "rate_limit_exceeded"
    status = 429
    do = "Wait as long as the Retry-After header says, then ask again; nothing was charged."


# The world ---------------------------------------------------------------------------------------


class CustodianUnreachable(Unavailable):
    """The custodian does not answer."""

    code = "custodian_unreachable"
    do = "Check the address and the network; the enclave keeps trying by itself."


class WitnessUnreachable(Unavailable):
    """The witness of the audit log does not answer, or not as witnesses do."""

    code = "witness_unreachable"
    do = "Check the witness's address; nothing was cosigned, and nothing is lost by asking again."


class EnclaveUnreachable(Unavailable):
    """The enclave does not answer."""

    code = "enclave_unreachable"
    do = "Check the address, and that the enclave is running."


class ModelUnreachable(Unavailable):
    """The sealed model cannot be fetched from this source."""

    code = "model_unreachable"
    do = "Check the address of the sealed file; it must answer HTTP range requests."


class KeyLocked(Unavailable):
    """A key of the custodian is wrapped, and does not open."""

    code = "key_locked"
    do = "Check the table [keys] of custodian.toml and the secret it names; nothing was released."


class KeeperUnreachable(Unavailable):
    """The device or service that opens the custodian's keys does not answer."""

    code = "keeper_unreachable"
    do = "Check the table [keys] of custodian.toml, the token or the key service; ask again."


class VendorUnreachable(Unavailable):
    """A vendor's service does not answer as it should."""

    code = "vendor_unreachable"
    do = "Check the address in the table [collateral] of custodian.toml, the network and the proxy."


class ChannelClosed(Unavailable):
    """The connection ended."""

    code = "channel_closed"
    do = "The link opens a new one by itself."


class WorkerFailed(Unavailable):
    """The inference engine failed on this request."""

    code = "engine_failed"
    do = "What was already answered is charged, the rest was returned; try again."


class StoreFailed(Unavailable):
    """The custodian could not write its ledger, so it did nothing."""

    code = "store_failed"
    do = "Free disk space or repair the disk; nothing was granted and nothing was lost."


class BooksWrong(Unavailable):
    """The ledger contradicts itself or its log."""

    code = "books_wrong"
    do = "Stop everything, keep the file, and restore from a backup that `leasehold audit verify` accepts."


class PlatformFailed(Unavailable):
    """The hardware or its driver gave no evidence."""

    code = "platform_failed"
    do = "Check that this machine's attestation driver works; see docs/spec/evidence.md for what is needed."


class Internal(Unavailable):
    """This program made a mistake of its own."""

    code = "internal"
    status = 500
    do = "Report it with the time it happened; the program's log names where, and no more."


class PortInUse(Unavailable):
    """Another program already listens at this address."""

    code = "port_in_use"
    do = "Stop the other program or choose another port with --listen."


class MissingExtra(Unavailable):
    """A part of Leasehold that this command needs is not installed."""

    code = "missing_extra"
    do = "Install it with the command shown above, then run this again."


class FileTrouble(Unavailable):
    """A file cannot be read or written."""

    code = "file_trouble"
    do = "Check that the path exists and that you may read or write it."


def from_wire(code: str, message: str) -> LeaseholdError:
    """The error that somebody else reported, as one of this tree; an unknown code is `Refused`."""
    shown = "".join(char if char.isprintable() else "?" for char in message)
    return codes().get(code, Refused)(told=shown)


def codes(root: type[LeaseholdError] = LeaseholdError) -> dict[str, type[LeaseholdError]]:
    """Every code of the tree below `root` with the class that carries it."""
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= codes(child)
    return found
