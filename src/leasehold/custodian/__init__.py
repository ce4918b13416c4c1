"""The lender's side: ledger, appraisal, release, channel, API."""
