"""Headrace beside its peers, on one machine, in one run: what is reported are ratios."""
