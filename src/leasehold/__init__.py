"""Leasehold lends an AI model to hardware that proved what it runs, and takes it back."""
