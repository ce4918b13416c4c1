"""Where the custodian keeps what it must never forget: a small port, and SQLite behind it."""
