"""The custodian's pages for operators in a browser: rendered here, without script (docs/spec/console.md)."""
