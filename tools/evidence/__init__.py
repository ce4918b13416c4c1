"""Replay recorded evidence of real machines through the verifier: `make evidence DIR=...`.

DIR holds one folder per case, `<platform>/<case>/case.json`, with what a correct verifier must say. Nothing
outside the case folders is read. Every recorded value is compared or named in `common.NOTES` as a
remark about somebody else's verifier; a value that no replay knows is a failure.
"""
