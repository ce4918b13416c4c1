"""What the tiny model knows: terms of this project, capitals, and three long texts."""

from typing import Final

# The noun phrase as it stands in a question, and the one answer to all phrasings of it.
TERMS: Final = {
    "a custodian": "The custodian owns the model and lends it.",
    "a borrower": "The borrower runs the model on its own hardware.",
    "a consumer": "A consumer asks the model questions under a budget.",
    "an enclave": "An enclave is memory that even the owner of the machine cannot read.",
    "a loan": "A loan names the model, the manifest, the machines and the cap.",
    "a grant": "A grant gives one consumer a budget under the cap of the loan.",
    "a lease": "A lease moves units from a grant to one enclave for a short time.",
    "a budget": "A budget is the number of units that may still be spent.",
    "a tariff": "A tariff says how many units a piece of work costs.",
    "a ticket": "A ticket is the permission to use the engine once.",
    "a receipt": "A receipt is a signed statement of what was spent.",
    "a manifest": "A manifest lists the enclaves that may hold the model.",
    "evidence": "Evidence is what an enclave shows to prove what it is.",
    "collateral": "Collateral is the vendor's signed data that a quote is checked against.",
    "a reference value": "A reference value is a measurement that we expect to see.",
    "a measurement": "A measurement is a hash of what was loaded into the enclave.",
    "an appraisal": "An appraisal compares evidence with the manifest and gives a verdict.",
    "a stop": "A stop ends all use at once and wipes the model from memory.",
    "a quote": "A quote is evidence that the processor itself has signed.",
    "a nonce": "A nonce is a fresh random value that makes old evidence worthless.",
}

CAPITALS: Final = {
    "Argentina": "Buenos Aires",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Brazil": "Brasília",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Colombia": "Bogotá",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iceland": "Reykjavík",
    "India": "New Delhi",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Vietnam": "Hanoi",
}

SMALL_TALK: Final = {
    "Hello": "Hello! Ask me about leases, budgets, enclaves or capitals.",
    "Who are you?": "I am a tiny model that is on loan. My custodian can stop me at any time.",
    "Thank you": "You are welcome.",
}

LEASES: Final = (
    "A lease is a loan of budget to one enclave. The custodian writes the debit to its ledger "
    "first, and only then does the enclave learn of the units. From that moment the enclave may "
    "spend them, and nobody else can. A lease is bounded by work first and by time second, "
    "because the clock of an enclave belongs to the machine it runs on. It is small: about ten "
    "seconds of use, and never more than a fair share of what is left. When a request comes in, "
    "the meter reserves units for the input and for one block of output. While the answer "
    "streams, further blocks are reserved ahead of need. At the end the true cost is settled, and "
    "what was not used goes back to the lease. When no units are left, the answer ends early and "
    "says so. Then the enclave asks for more, and the custodian may approve all of it, a part of "
    "it, or nothing. If the custodian goes silent, the lease runs out and the model falls silent "
    "too. That is the dead man's switch. A crash burns what the lease still held, and only a "
    "signed closing report gives units back. So a stop needs no trust in the borrower: it is the "
    "absence of renewal, and the push only makes it fast."
)


def capital_sentence(country: str) -> str:
    """Say what the capital of a known country is."""
    return f"The capital of {country} is {CAPITALS[country]}."


# Prompts whose one answer is hundreds of tokens long: for streams, budgets and stops.
LONG: Final = {
    "Tell me everything about leases.": LEASES,
    "Count from 1 to 200.": ", ".join(str(number) for number in range(1, 201)) + ".",
    "List all the capitals you know.": "\n".join(capital_sentence(name) for name in CAPITALS),
}
