"""The ledger that cannot overspend: acts on one transaction each, with permission, change and audit entry.

Every act takes `tx` first and everything else by name; run it with `Store.write` or `Store.read`:

    answer = await store.write(lambda tx: asks.ask(tx, now=now, instance=instance, ask=message))
"""
