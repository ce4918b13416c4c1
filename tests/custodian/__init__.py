"""Tests of the lender's side."""
